# SPDX-License-Identifier: Apache-2.0
"""Which teacher a line and a model mean, and what is left as it is."""

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from se_mm.smoothing import OptionError, Settings
from se_mm.teachers import TEACHERS, Pair, find_teacher
from tests.toys import (
    SE,
    STS,
    TMA,
    Momentum,
    MovesByMethod,
    Nested,
    Plain,
    Toy,
    ToyMeanTeacher,
    assert_close,
    hook_of,
    shadow_of,
    state_of,
)

PAIR = dict(STS, momentum=0.1)


def said_by(runner):
    """The line with which a run is refused before its first iteration."""
    with pytest.raises(OptionError) as error:
        runner.train()
    assert '\n' not in str(error.value) and runner.iter == 0
    return str(error.value)


@pytest.mark.parametrize(
    'model, options, expected',
    [
        (Plain, {}, 'a copy of the model (shadow) follows Plain'),
        (Momentum, {}, 'target (averaged) follows encoder'),
        (ToyMeanTeacher, {}, 'teacher (pair) follows student'),
        (MovesByMethod, {}, 'teacher (method) follows student'),
        (Nested, {}, 'model.teacher (pair) follows model.student'),
        (Momentum, dict(kind='shadow'), 'a copy of the model (shadow) follows Momentum'),
        (
            ToyMeanTeacher,
            dict(kind='shadow'),
            'a copy of the model (shadow) follows ToyMeanTeacher',
        ),
        (MovesByMethod, dict(kind='pair'), 'teacher (pair) follows student'),
        (MovesByMethod, dict(update_method='ema_update'), 'teacher (method) follows student'),
        (
            lambda: ToyMeanTeacher('net', 'slow'),
            dict(teacher='slow', student='net'),
            'slow (pair) follows net',
        ),
        (
            Nested,
            dict(teacher='model.teacher', student='model.student'),
            'model.teacher (pair) follows model.student',
        ),
        (
            lambda: ToyMeanTeacher('net', 'slow'),
            {},
            'a copy of the model (shadow) follows ToyMeanTeacher',
        ),
    ],
)
def test_teacher_is_the_one_that_options_and_model_mean(model, options, expected):
    assert str(find_teacher(model(), Settings(**options))) == expected


@pytest.mark.parametrize(
    'model, options, message',
    [
        (Plain, dict(kind='pair'), "Plain has no teacher of kind 'pair'.*kind='shadow' for a copy"),
        (Plain, dict(kind='averaged'), "Plain has no teacher of kind 'averaged'"),
        (Momentum, dict(kind='pair'), r"no teacher of kind 'pair' \(teachers in it: 'target' \(av"),
        (ToyMeanTeacher, dict(kind='averaged'), r"'teacher' \(pair\)"),
        (ToyMeanTeacher, dict(kind='method'), "no teacher of kind 'method'"),
        (Plain, dict(kind='shado'), "kind must be one of .*, got 'shado'. Did you mean 'shadow'"),
        (Plain, dict(teacher='backbone'), "student must be set with teacher='backbone'"),
        (Plain, dict(teacher='bakbone'), "got 'bakbone'. Did you mean 'backbone'"),
        (Plain, dict(update_method='go'), "update_method must be a method of Plain, got 'go'"),
        (
            lambda: ToyMeanTeacher('net', 'slow'),
            dict(teacher='slow', student='nett'),
            "student must be the dotted name .*, got 'nett'. Did you mean 'net'",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_one_line_with_the_choices(model, options, message):
    with pytest.raises(OptionError, match=message) as error:
        find_teacher(model(), Settings(**options))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'model, options',
    [
        (lambda: ToyMeanTeacher('net', 'slow'), dict(teacher='slow', student='net')),
        (Nested, {}),
        (Nested, dict(teacher='model.teacher', student='model.student')),
    ],
    ids=['other names', 'one level down', 'one level down, named'],
)
def test_pairs_under_other_names_and_one_level_down_are_moved_as_a_plain_one(toys, model, options):
    plain = toys.train(ToyMeanTeacher, PAIR, iters=8)
    runner = toys.train(model(), dict(PAIR, **options), iters=8)
    teacher = hook_of(runner).teacher
    # Picks depend on the student's names, which differ; the average alone does not.
    assert hook_of(runner).updater.ensemble.step == hook_of(plain).updater.ensemble.step == 9
    assert not any(p.requires_grad for p in teacher.module.parameters())
    ours = toys.train(model(), dict(TMA, momentum=0.1, **options), iters=8)
    plain = toys.train(ToyMeanTeacher, dict(TMA, momentum=0.1), iters=8)
    assert_close(hook_of(ours).teacher.module, plain.model.teacher)


class Branch(nn.Module):
    """A head on a backbone that it may share with another."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(6, 1)

    def forward(self, inputs):
        return self.head(self.backbone(inputs))


class SharedBackbone(ToyMeanTeacher):
    """A student and a teacher with one backbone, which is trained."""

    def __init__(self):
        super().__init__()
        backbone = nn.Linear(6, 6)
        self.student, self.teacher = Branch(backbone), Branch(backbone)


@pytest.mark.parametrize('hook', [dict(TMA, momentum=0.1), SE], ids=['TMA', 'SE'])
def test_promise_10_backbone_that_teacher_and_student_share_stays_trained(toys, hook):
    runner = toys.build(SharedBackbone, hook, iters=10)
    model = runner.model
    before = model.student.backbone.weight.detach().clone()
    runner.train()
    assert model.student.backbone.weight.requires_grad
    assert not model.teacher.head.weight.requires_grad
    assert float((model.student.backbone.weight - before).norm()) > 0.1
    assert any('share 2 tensors' in line for line in hook_of(runner).updater.describe())


class Distillation(ToyMeanTeacher):
    """A student that learns from a teacher that was trained before."""

    def __init__(self, **kwargs):
        super().__init__(perfect=True)

    def loss(self, inputs, sums):
        return {'loss': (self.student(inputs) - self.teacher(inputs)).square().mean()}


EMA_LINE = dict(ema_type='ExponentialMovingAverage', momentum=0.1, update_buffers=True)


@pytest.mark.parametrize(
    'hook',
    [
        dict(TMA, **EMA_LINE),
        dict(SE, kind='shadow'),
        dict(STS, device='cpu'),
        dict(TMA, kind='shadow'),
    ],
    ids=['EMAHook line', 'kind', 'device', 'kind of STS'],
)
def test_promise_10_distillation_teacher_is_untouched_where_the_line_means_a_shadow(toys, hook):
    runner = toys.build(Distillation, hook, iters=20)
    before = state_of(runner.model.teacher)
    trained = {name: p.requires_grad for name, p in runner.model.named_parameters()}
    runner.train()
    now = runner.model.teacher.state_dict()
    # Its batch norm sees the images in its own forward.
    parameters = dict(runner.model.teacher.named_parameters())
    assert all(torch.equal(now[name], before[name]) for name in parameters)
    assert hook_of(runner).teacher.kind == 'shadow'
    assert {name: p.requires_grad for name, p in runner.model.named_parameters()} == trained
    (caution,) = hook_of(runner).teacher.cautions
    assert 'a teacher of its own' in caution


def test_promise_10_distillation_teacher_with_an_emahook_line_is_evaluated_as_the_stock_one(toys):
    stock = toys.train(Distillation, dict(type='EMAHook', **EMA_LINE), iters=20)
    ours = toys.train(Distillation, dict(TMA, **EMA_LINE), iters=20)
    assert_close(shadow_of(ours), shadow_of(stock))


@pytest.mark.parametrize('hook', [PAIR, SE], ids=['STS', 'SE'])
def test_promise_10_teacher_that_looks_trained_must_be_settled_by_the_kind(toys, hook):
    said = said_by(toys.build(Distillation, hook))
    assert 'kind must be set' in said and "kind='pair'" in said and "kind='shadow'" in said
    runner = toys.build(Distillation, dict(hook, kind='pair'), iters=3)
    runner.train()
    assert hook_of(runner).teacher.kind == 'pair'


class FromCheckpoint(ToyMeanTeacher):
    """A teacher whose ``init_cfg`` loads a checkpoint of its own."""

    def __init__(self, student_too=False):
        super().__init__()
        self.teacher.init_cfg = dict(type='Pretrained', checkpoint='teacher.pth')
        if student_too:
            self.student.init_cfg = dict(type='Pretrained', checkpoint='teacher.pth')


def test_promise_10_teacher_with_a_checkpoint_of_its_own_must_be_settled_by_the_kind():
    with pytest.raises(
        OptionError, match=r'loaded from its own checkpoint \(teacher.pth\)'
    ) as error:
        find_teacher(FromCheckpoint())
    assert "kind='shadow'" in str(error.value) and "kind='pair'" in str(error.value)
    assert find_teacher(FromCheckpoint(), Settings(kind='pair')).kind == 'pair'
    assert find_teacher(FromCheckpoint(), Settings(kind='shadow')).kind == 'shadow'
    # One that both begin from is no distillation.
    assert find_teacher(FromCheckpoint(student_too=True)).kind == 'pair'


def test_kind_of_a_users_own_is_found_whatever_the_order_of_registration(toys):
    @TEACHERS.register_module('slow_fast', force=True)
    class SlowFast(Pair):
        kind = 'slow_fast'
        names = ('slow', 'fast')

    try:
        assert find_teacher(ToyMeanTeacher('fast', 'slow')).kind == 'slow_fast'
        runner = toys.train(ToyMeanTeacher('fast', 'slow'), PAIR, iters=4)
        assert str(hook_of(runner).teacher) == 'slow (slow_fast) follows fast'
        assert find_teacher(Plain()).kind == 'shadow'
    finally:
        TEACHERS.module_dict.pop('slow_fast')


class WithUnusedAverage(Toy):
    """An average that has nothing to do with the rest."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)
        self.outer = nn.Module()
        self.outer.inner = ExponentialMovingAverage(nn.Linear(3, 3))


def test_average_deep_in_a_model_is_found_and_its_student_is_what_the_model_passes():
    teacher = find_teacher(WithUnusedAverage())
    assert (teacher.kind, teacher.path, teacher.student) == ('averaged', 'outer.inner', None)
