# SPDX-License-Identifier: Apache-2.0
"""SETMAHook averages as what it replaces did, whatever that was."""

import importlib
import math

import pytest
import torch
from mmengine.model import (
    BaseAveragedModel,
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)
from mmengine.registry import MODELS
from torch import nn

from se_mm.smoothing import OptionError, Settings
from se_mm.teachers import Updater, find_teacher
from se_mm.teachers.stock_average import StockAverage

UPDATES = 12


def install(model, **options):
    """Put our updates into a model's teacher, with its own average."""
    teacher = find_teacher(model)
    updater = Updater(teacher, Settings(**{'keep_prob': 0.0, 'momentum': None, **options}))
    updater.ensemble.total = UPDATES
    teacher.install(updater)
    return updater


@MODELS.register_module(force=True)
class HalfwayAverage(BaseAveragedModel):
    """An averaging rule of a user's own."""

    def avg_func(self, averaged_param, source_param, steps):
        averaged_param.add_(source_param).div_(2 + 0 * int(steps))


@MODELS.register_module(force=True)
class PerShape(BaseAveragedModel):
    """An average that treats vectors unlike matrices."""

    def avg_func(self, averaged_param, source_param, steps):
        averaged_param.lerp_(source_param, 0.5 if averaged_param.dim() == 1 else 0.1)


@MODELS.register_module(force=True)
class StepDependent(ExponentialMovingAverage):
    """An average of a user's own whose momentum depends on the update step, as in mmpose."""

    def avg_func(self, averaged_param, source_param, steps):
        weight = (1 - self.momentum) * math.exp(-float(1 + steps) / 5) + self.momentum
        averaged_param.lerp_(source_param, weight)


class WithTeacher(nn.Module):
    """A student, and an averaged model of it."""

    def __init__(self, averaged, **kwargs):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 2).double()
        self.teacher_net = averaged(self.net, **kwargs)


def mmlab_class(scope, name):
    pytest.importorskip(scope)
    where = {'mmpretrain': 'mmpretrain.models.utils.ema', 'mmdet': 'mmdet.models.layers.ema'}
    return getattr(importlib.import_module(where[scope]), name)


CASES = [
    ('mmengine', ExponentialMovingAverage, dict(momentum=0.1)),
    ('mmengine', MomentumAnnealingEMA, dict(momentum=0.2, gamma=3)),
    ('mmengine', StochasticWeightAverage, {}),
    ('mmengine', StochasticWeightAverage, dict(interval=3)),
    ('mmengine', ExponentialMovingAverage, dict(momentum=0.1, interval=2)),
    ('mmengine', HalfwayAverage, {}),
    ('mmengine', PerShape, {}),
    ('mmengine', StepDependent, {}),
    ('mmpretrain', 'CosineEMA', dict(momentum=0.1, end_momentum=0.02)),
    ('mmdet', 'ExpMomentumEMA', dict(momentum=0.1, gamma=5)),
]


@pytest.mark.parametrize('scope, averaged, options', CASES)
def test_keep_prob_zero_makes_the_updates_of_the_stock_class(scope, averaged, options):
    from mmengine.logging import MessageHub

    if isinstance(averaged, str):
        averaged = mmlab_class(scope, averaged)
    MessageHub.get_current_instance().update_info('max_iters', UPDATES)
    stock, ours = WithTeacher(averaged, **options), WithTeacher(averaged, **options)
    names, averages = list(ours.state_dict()), ours.teacher_net
    updater = install(ours)
    generator = torch.Generator().manual_seed(0)
    for _ in range(UPDATES):
        noise = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        for model in (stock, ours):
            with torch.no_grad():
                model.net.weight.add_(noise)
                model.net.bias.add_(noise[:, 0])
            model.teacher_net.update_parameters(model.net)
        torch.testing.assert_close(ours.teacher_net.module.weight, stock.teacher_net.module.weight)
        torch.testing.assert_close(ours.teacher_net.module.bias, stock.teacher_net.module.bias)
    # The averaged model is the object that it was.
    assert list(ours.state_dict()) == names and ours.teacher_net is averages
    assert type(ours.teacher_net) is type(stock.teacher_net) and updater.ensemble.step == UPDATES
    assert int(ours.teacher_net.steps) == int(stock.teacher_net.steps) == UPDATES


def test_class_that_is_known_is_described_and_a_subclass_has_its_own_rule():
    class Squared(ExponentialMovingAverage):
        def avg_func(self, averaged_param, source_param, steps):
            averaged_param.lerp_(source_param, self.momentum**2)

    known = StockAverage(ExponentialMovingAverage(nn.Linear(2, 2), momentum=0.1))
    assert known.describe()(0, 1) == pytest.approx(0.1)
    assert known(0) == pytest.approx(0.1)
    own = StockAverage(Squared(nn.Linear(2, 2), momentum=0.5))
    assert own.describe() is None
    assert own(0) == pytest.approx(0.25)


def test_average_that_is_no_weight_is_called_with_the_tensors():
    average = StockAverage(PerShape(nn.Linear(2, 2)))(0)
    assert callable(average)
    for shape, expected in (((2,), 0.5), ((2, 2), 0.1)):
        teacher = torch.zeros(shape)
        average(teacher, torch.ones(shape))
        assert torch.equal(teacher, torch.full(shape, expected))


def test_promise_10_momentum_that_is_set_from_outside_is_in_force_at_the_next_update():
    averaged = ExponentialMovingAverage(nn.Linear(2, 2), momentum=0.1)
    average = StockAverage(averaged)
    assert average(3) == pytest.approx(0.1)
    averaged.momentum = 0.7
    assert average(4) == pytest.approx(0.7)
    assert average.describe()(4, 9) == pytest.approx(0.7)


def test_promise_8_a_kept_unit_is_kept_and_another_moves_by_the_step_dependent_average():
    model, alone = (
        WithTeacher(StepDependent, momentum=0.05),
        WithTeacher(StepDependent, momentum=0.05),
    )
    install(model, keep_prob=0.5)
    kept = moved = 0
    for step in range(UPDATES):
        with torch.no_grad():
            for each in (model, alone):
                each.net.weight.add_(1)
            alone.teacher_net.module.load_state_dict(model.teacher_net.module.state_dict())
        before = model.teacher_net.module.weight.clone()
        for each in (model, alone):
            each.teacher_net.update_parameters(each.net)
        now = model.teacher_net.module.weight
        if step and torch.equal(now, before):
            kept += 1
        else:
            moved += 1
            torch.testing.assert_close(now, alone.teacher_net.module.weight)
    assert kept > 1 and moved > 1


def test_promise_4_the_average_is_asked_without_a_look_at_the_count_on_its_device(monkeypatch):
    averaged = StepDependent(nn.Linear(2, 2))
    average = StockAverage(averaged)
    average(0)
    monkeypatch.setattr(type(averaged.steps), '__int__', lambda tensor: pytest.fail('waited'))
    # Its own function reads the step that it is given.
    assert 0 < average(5) < 1


def test_matched_horizon_needs_a_momentum(runs, byol_cfg):
    runner = runs.build(byol_cfg, dict(type='SETMAHook', match_horizon=True))
    runner.model.target_net = PerShape(runner.model.target_net.module)
    with pytest.raises(OptionError, match='match_horizon=True needs an average that is a momentum'):
        runner.train()
    assert runner.iter == 0


def test_exp_annealed_momentum_is_mmdets_formula():
    momentum = mmlab_class('mmdet', 'ExpMomentumEMA')(nn.Linear(2, 2), momentum=0.1, gamma=7)
    average = StockAverage(momentum)
    for step in (0, 3, 50):
        assert average(step) == average.describe()(step, 99)
        assert average(step) == pytest.approx(0.9 * math.exp(-(1 + step) / 7) + 0.1)
