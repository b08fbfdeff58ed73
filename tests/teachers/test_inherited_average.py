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
from se_mm.engine.teachers import find_teacher
from se_mm.engine.teachers.inherited_average import inherited_average
from torch import nn

from se_mm.smoothing import (
    OptionError,
    Rule,
    Rules,
    Schedule,
    Smoother,
    keep_prob_schedule,
)

UPDATES = 12


@MODELS.register_module(force=True)
class HalfwayAverage(BaseAveragedModel):
    """An averaging rule of a user's own."""

    def avg_func(self, averaged_param, source_param, steps):
        averaged_param.add_(source_param).div_(2 + 0 * int(steps))


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
    ('mmengine', HalfwayAverage, {}),
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
    teacher = find_teacher(ours)
    rule = Rule(keep_prob_schedule('keep_prob', 0), teacher.inherited_average(), False, 'tensor')
    smoothed = teacher.install()
    smoothed.smoother = Smoother(teacher.parameters, teacher.buffers, Rules(rule, {}), 'copy')
    smoothed.total = UPDATES
    generator = torch.Generator().manual_seed(0)
    for _ in range(UPDATES):
        noise = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        for model in (stock, ours):
            with torch.no_grad():
                model.net.weight.add_(noise)
            model.teacher_net.update_parameters(model.net)
        torch.testing.assert_close(ours.teacher_net.module.weight, stock.teacher_net.module.weight)
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert int(ours.teacher_net.steps) == int(stock.teacher_net.steps) == UPDATES


def test_class_that_is_known_gives_a_schedule_and_a_subclass_its_own_rule():
    class Squared(ExponentialMovingAverage):
        def avg_func(self, averaged_param, source_param, steps):
            averaged_param.lerp_(source_param, self.momentum**2)

    known = inherited_average(ExponentialMovingAverage(nn.Linear(2, 2), momentum=0.1))
    assert isinstance(known, Schedule)
    assert known(0, 1) == pytest.approx(0.1)
    own = inherited_average(Squared(nn.Linear(2, 2), momentum=0.5))
    teacher, student = torch.zeros(2), torch.ones(2)
    own(teacher, student, 0)
    assert teacher.tolist() == [0.25, 0.25]


def test_class_that_updates_in_its_own_way_needs_a_momentum():
    class Other(ExponentialMovingAverage):
        def update_parameters(self, model):
            pass

    with pytest.raises(OptionError, match='momentum=None cannot be inherited: Other'):
        inherited_average(Other(nn.Linear(2, 2)))


def test_matched_horizon_needs_a_momentum(runs, byol_cfg):
    runner = runs.build(byol_cfg, dict(type='SETMAHook', match_horizon=True))
    runner.model.target_net = HalfwayAverage(runner.model.target_net.module)
    with pytest.raises(OptionError, match='match_horizon=True is not allowed'):
        runner.train()


def test_exp_annealed_momentum_is_mmdets_formula():
    momentum = mmlab_class('mmdet', 'ExpMomentumEMA')(nn.Linear(2, 2), momentum=0.1, gamma=7)
    schedule = inherited_average(momentum)
    for step in (0, 3, 50):
        assert schedule(step, 99) == pytest.approx(0.9 * math.exp(-(1 + step) / 7) + 0.1)
