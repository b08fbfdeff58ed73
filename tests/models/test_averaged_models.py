# SPDX-License-Identifier: Apache-2.0
"""Averaged models that can be named as ema_type of the stock EMAHook."""

import copy

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel, ExponentialMovingAverage
from mmengine.registry import MODELS
from torch import nn

from se_mm.models import SpatialEnsemble, SpatialTemporalSmoothing
from se_mm.smoothing import OptionError, TeacherFault


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def move(student, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in student.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))


@pytest.mark.parametrize('cls', [SpatialEnsemble, SpatialTemporalSmoothing])
def test_it_is_an_averaged_model_with_the_stock_state_dict(cls):
    student = net()
    ours, stock = cls(student), ExponentialMovingAverage(student)
    assert isinstance(ours, BaseAveragedModel)
    assert list(ours.state_dict()) == list(stock.state_dict())
    ours.load_state_dict(stock.state_dict())
    assert MODELS.get(cls.__name__) is cls


@pytest.mark.parametrize('update_buffers', [False, True])
def test_keep_prob_zero_is_mmengines_exponential_moving_average(update_buffers):
    student = net()
    ours = SpatialTemporalSmoothing(
        student, keep_prob=0.0, momentum=0.2, update_buffers=update_buffers
    )
    stock = ExponentialMovingAverage(student, 0.2, update_buffers=update_buffers)
    for step in range(6):
        move(student, step)
        for averaged in (ours, stock):
            averaged.update_parameters(student)
        for name, value in stock.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value)


def test_spatial_ensemble_holds_fragments_of_several_students():
    student = net()
    teacher = SpatialEnsemble(student, keep_prob=0.6, granularity='channel')
    seen = []
    for step in range(12):
        move(student, step)
        seen.append(student[0].weight.detach().clone())
        teacher.update_parameters(student)
    origins = [
        next(
            i
            for i, weights in enumerate(seen)
            if torch.equal(weights[row], teacher.module[0].weight[row])
        )
        for row in range(4)
    ]
    assert len(set(origins)) > 1


def test_count_of_updates_survives_a_state_dict():
    student = net()
    first = SpatialEnsemble(student, keep_prob=0.5)
    for step in range(5):
        move(student, step)
        first.update_parameters(student)
    second = SpatialEnsemble(student, keep_prob=0.5)
    second.load_state_dict(first.state_dict())
    assert int(second.steps) == 5
    for step in range(5, 9):
        move(student, step)
        for teacher in (first, second):
            teacher.update_parameters(student)
    assert all(
        torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items()
    )


def test_teacher_can_be_kept_in_another_precision_than_its_student():
    student = net()
    teacher = SpatialTemporalSmoothing(student, keep_prob=0.5, momentum=0.01)
    teacher.module.double()
    for step in range(4):
        move(student, step)
        teacher.update_parameters(student)
    assert teacher.module[0].weight.dtype == torch.float64


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(keep_prob=1.0), r'keep_prob must be a number in \[0, 1\), got 1.0'),
        (dict(granularity='row'), "granularity must be one of .*, got 'row'"),
        (dict(overrides={'nothing': 'copy'}), r'\[.nothing.\] must match a tensor'),
        (dict(interval=0), 'interval must be an integer >= 1, got 0'),
        (dict(update_buffers='yes'), "update_buffers must be True or False, got 'yes'"),
        (dict(seed=-1), 'seed must be an integer >= 0, got -1'),
    ],
)
@pytest.mark.parametrize('cls', [SpatialEnsemble, SpatialTemporalSmoothing])
def test_wrong_option_is_refused(cls, options, message):
    with pytest.raises(OptionError, match=message):
        cls(net(), **options)


def test_student_of_another_shape_is_refused_and_another_of_the_same_is_followed():
    teacher = SpatialEnsemble(net(), keep_prob=0.0)
    other = net()
    move(other, 0)
    teacher.update_parameters(other)
    assert torch.equal(teacher.module[0].weight, other[0].weight)
    other[0] = nn.Linear(3, 5)
    with pytest.raises(TeacherFault, match=r"'0.weight' is \(4, 3\) in the teacher and \(5, 3\)"):
        teacher.update_parameters(other)


@pytest.mark.parametrize('cls', [SpatialEnsemble, SpatialTemporalSmoothing])
def test_averaged_model_survives_a_deepcopy(cls):
    student = net()
    teacher = cls(student, keep_prob=0.5)
    for step in range(3):
        move(student, step)
        teacher.update_parameters(student)
    again = copy.deepcopy(teacher)
    for step in range(3, 7):
        move(student, step)
        teacher.update_parameters(student)
        again.update_parameters(student)
    for name, value in teacher.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize('name', ['SpatialEnsemble', 'SpatialTemporalSmoothing'])
def test_stock_emahook_takes_it_by_name(name):
    hook = EMAHook(ema_type=name, keep_prob=0.5)

    class OfARun:
        model = net()

    hook.before_run(OfARun)
    assert type(hook.ema_model).__name__ == name
    hook.ema_model.update_parameters(OfARun.model)
    assert torch.equal(hook.ema_model.module[0].weight, OfARun.model[0].weight)
