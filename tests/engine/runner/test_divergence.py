# SPDX-License-Identifier: Apache-2.0
"""A model that fails because its run has diverged: its error stays, and the cause is named."""

import math
import sys

import pytest
from mmengine.hooks import Hook

from se_mm.engine.runner.resumable_runner import ResumableRunner
from se_mm.smoothing import TeacherFault
from tests.toys import Plain, ToyMeanTeacher


class FailsOnNaN:
    """A model that lacks one of its losses when its weights are not finite."""

    def loss(self, inputs, sums):
        losses = super().loss(inputs, sums)
        return {'loss': losses['loss'] if losses['loss'].isfinite() else {}['loss_cls']}


class FailingPair(FailsOnNaN, ToyMeanTeacher):
    """One with a teacher."""


class FailingPlain(FailsOnNaN, Plain):
    """One without."""


class DamageHook(Hook):
    """Makes a weight infinite after the third iteration."""

    priority = 'LOWEST'

    def __init__(self, name):
        self.name = name

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 2 and self.name:
            runner.model.get_parameter(self.name).data.view(-1)[0] = math.inf


def caught(toys, model, *hooks, kind=KeyError):
    runner = toys.build(model, *hooks, cls=ResumableRunner)
    said = []
    runner.logger.error = lambda message, *_: said.append(str(message))
    with pytest.raises(kind) as found:
        runner.train()
    return said, found.value


@pytest.mark.parametrize(
    'model, hooks, name',
    [
        (
            FailingPair,
            [dict(type='SETMAHook', keep_prob=0.5, momentum=0.1, check_finite=100)],
            'student.0.weight',
        ),
        (FailingPlain, [], 'backbone.weight'),
        (FailingPlain, [dict(type='EMAHook')], 'head.bias'),
    ],
    ids=['pair', 'without a hook', 'stock hook'],
)
def test_tensor_that_is_not_finite_is_named_and_the_error_stays(toys, model, hooks, name):
    said, error = caught(toys, model, *hooks, DamageHook(name))
    assert error.args == ('loss_cls',)
    (line,) = said
    assert f'tensor {name!r} of the student is not finite at iteration 3' in line
    if sys.version_info >= (3, 11):
        assert error.__notes__ == said


def test_error_of_a_finite_model_has_no_note(toys, monkeypatch):
    monkeypatch.setattr(FailsOnNaN, 'loss', lambda *_: {}['loss_cls'])
    said, error = caught(toys, FailingPlain)
    assert said == [] and not hasattr(error, '__notes__')


def test_fault_that_names_the_tensor_itself_has_no_note(toys):
    hook = dict(type='SETMAHook', keep_prob=0.5, momentum=0.1, check_finite=1)
    damage = DamageHook('student.0.weight')
    damage.priority = 'HIGHEST'
    said, error = caught(toys, ToyMeanTeacher, hook, damage, kind=TeacherFault)
    assert '0.weight' in str(error) and said == []


def test_device_that_cannot_be_asked_hides_no_error(toys, monkeypatch):
    def broken(tensors):
        raise RuntimeError('device-side assert')

    monkeypatch.setattr(sys.modules['se_mm.engine.runner.resumable_runner'], 'not_finite', broken)
    said, error = caught(toys, FailingPlain, DamageHook('backbone.weight'))
    assert error.args == ('loss_cls',) and said == []
