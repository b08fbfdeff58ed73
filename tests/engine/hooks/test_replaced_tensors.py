# SPDX-License-Identifier: Apache-2.0
"""A tensor that a model replaces during its training is followed; another shape is one line."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from se_mm.smoothing import TeacherFault
from tests.toys import SE, STS, Plain, Toy, ToyMeanTeacher, hook_of

OURS = [dict(STS, momentum=0.1), SE]
IDS = ['STS', 'SE']


class Reassigns(nn.Module):
    """A network that gives a buffer a new tensor in each forward of its training."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 1)
        self.register_buffer('seen', torch.zeros(3))

    def forward(self, inputs):
        if self.training:
            self.seen = self.seen + 1
        return self.fc(inputs)


class ReassigningPair(ToyMeanTeacher):
    """A student and a teacher of that kind, of which the student alone is trained."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = Reassigns(), Reassigns().requires_grad_(False)

    def loss(self, inputs, sums):
        return {'loss': (self.student(inputs) - sums).square().mean()}


class ReassigningPlain(Toy):
    """One network of that kind."""

    def __init__(self):
        super().__init__()
        self.net = Reassigns()

    def predict(self, inputs):
        return self.net(inputs)


@pytest.mark.parametrize('hook', OURS, ids=IDS)
def test_promise_6_buffer_that_is_reassigned_is_followed(toys, hook):
    pair = toys.train(ReassigningPair, hook, iters=6).model
    assert pair.student.seen.tolist() == [6, 6, 6]
    assert torch.equal(pair.teacher.seen, pair.student.seen)
    runner = toys.train(ReassigningPlain, hook, iters=6)
    assert torch.equal(hook_of(runner).teacher.module.net.seen, runner.model.net.seen)


@HOOKS.register_module(force=True)
class ChangeStudentHook(Hook):
    """Calls a function with the model after an iteration."""

    priority = 'ABOVE_NORMAL'

    def __init__(self, change, at=3):
        self.change, self.at = change, at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.at:
            self.change(runner.model)


def new_head(model):
    model.head = nn.Linear(6, 1)
    nn.init.constant_(model.head.weight, 5.0)


def half_and_back(model):
    model.half().float()


def smaller_data(model):
    model.head.weight.data = model.head.weight.data[:, :2].clone()


def wider_head(model):
    model.head = nn.Linear(6, 9)


def no_bias(model):
    model.head.bias = None


@pytest.mark.parametrize('change', [new_head, half_and_back], ids=lambda c: c.__name__)
@pytest.mark.parametrize('hook', OURS, ids=IDS)
def test_promise_6_parameter_that_is_replaced_is_followed(toys, change, hook):
    hook = dict(hook, overrides={'head': 'copy'})
    runner = toys.train(Plain, hook, dict(type='ChangeStudentHook', change=change), iters=6)
    teacher = hook_of(runner).teacher.module
    assert torch.equal(teacher.head.weight, runner.model.head.weight)
    assert (change is new_head) == bool(teacher.head.weight.mean() > 4)


@pytest.mark.parametrize(
    'change, said',
    [
        (smaller_data, r"'head.weight' is \(1, 6\) in the teacher and \(1, 2\) in the student"),
        (wider_head, r"'head.weight' is \(1, 6\) in the teacher and \(9, 6\) in the student"),
        (no_bias, "the student must have a tensor 'head.bias'"),
    ],
    ids=['data', 'head', 'gone'],
)
@pytest.mark.parametrize('hook', OURS, ids=IDS)
def test_promise_6_tensor_of_another_shape_ends_the_run_in_one_line(toys, change, said, hook):
    runner = toys.build(Plain, hook, dict(type='ChangeStudentHook', change=change), iters=6)
    with pytest.raises(TeacherFault, match=said) as error:
        runner.train()
    assert '\n' not in str(error.value)
    assert runner.iter == 3


@pytest.mark.parametrize('hook', OURS, ids=IDS)
def test_promise_6_pair_of_different_shapes_is_refused_before_the_first_iteration(toys, hook):
    from se_mm.smoothing import OptionError

    class Unequal(ToyMeanTeacher):
        def __init__(self):
            super().__init__()
            self.teacher[2] = nn.Linear(6, 4)

    runner = toys.build(Unequal, dict(hook, teacher='teacher', student='student'))
    with pytest.raises(OptionError, match=r"'student.2.weight' is \(4, 6\) .* \(1, 6\) in the st"):
        runner.train()
    assert runner.iter == 0
