# SPDX-License-Identifier: Apache-2.0
"""A line of a stock hook with another type does what the stock hook did, beside it."""

import math

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS

from se_mm.smoothing import OptionError
from tests.toys import SAVING, Plain, assert_close, hook_of, shadow_of, state_of


@MODELS.register_module(force=True)
class ExpMomentumAverage(ExponentialMovingAverage):
    """An average of a user's own that depends on the step, as mmpose's and mmyolo's do."""

    def __init__(self, model, momentum=0.0002, gamma=20, **kwargs):
        super().__init__(model, momentum, **kwargs)
        self.gamma = gamma

    def avg_func(self, averaged_param, source_param, steps):
        momentum = (1 - self.momentum) * math.exp(-float(1 + steps) / self.gamma) + self.momentum
        averaged_param.lerp_(source_param, momentum)


LINES = [
    {},
    dict(momentum=0.1),
    dict(momentum=0.0002, strict_load=False),
    dict(momentum=0.0002, strict_load=True, begin_iter=2),
    dict(momentum=0.1, device='cpu'),
    dict(momentum=0.1, interval=2),
    dict(momentum=0.1, interval=3, update_buffers=True),
    dict(ema_type='MomentumAnnealingEMA', momentum=0.1, gamma=10),
    dict(ema_type='StochasticWeightAverage'),
    dict(ema_type='StochasticWeightAverage', interval=3),
    dict(ema_type='StochasticWeightAverage', interval=3, begin_iter=4),
    dict(momentum=0.1, begin_epoch=1),
    dict(ema_type='ExpMomentumAverage', momentum=0.01),
    dict(ema_type='ExpMomentumAverage', momentum=0.0001, gamma=5, strict_load=False),
    dict(ema_type=ExpMomentumAverage, gamma=5, update_buffers=True),
    dict(momentum=0.1, priority=49),
    dict(ema_type='ExponentialMovingAverage', momentum=0.1, update_buffers=True, priority='NORMAL'),
]


@pytest.mark.parametrize('line', LINES, ids=str)
def test_promise_3_line_with_another_type_keeps_the_copy_of_the_stock_hook(toys, line):
    stock = toys.train(Plain, dict(line, type='EMAHook'), iters=14, default_hooks=SAVING)
    ours = toys.train(
        Plain, dict(line, type='SETMAHook', keep_prob=0.0), iters=14, default_hooks=SAVING
    )
    assert_close(shadow_of(ours), shadow_of(stock))
    for step in (1, 3, 14):
        first, second = (
            torch.load(f'{r.work_dir}/iter_{step}.pth', weights_only=False) for r in (stock, ours)
        )
        assert set(second) - set(first) == {'se_mm'}
        for part in ('state_dict', 'ema_state_dict'):
            assert_close(first[part], second[part])


def test_step_dependent_average_of_a_users_own_is_in_force_as_in_the_stock_hook(toys):
    line = dict(ema_type='ExpMomentumAverage', momentum=0.01, gamma=20)
    runner = toys.train(Plain, dict(line, type='SETMAHook', keep_prob=0.5), iters=30)
    weight = hook_of(runner).updater.weight
    for step in (1, 10, 29):
        expected = 0.99 * math.exp(-(1 + step) / 20) + 0.01
        assert weight(step) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('line', LINES, ids=str)
def test_promise_3_stock_checkpoint_goes_on_under_ours_and_back(toys, line):
    hooks = dict(line, type='EMAHook'), dict(line, type='SETMAHook', keep_prob=0.0)
    for before, after in (hooks, hooks[::-1]):
        first = toys.train(Plain, before, iters=8, default_hooks=SAVING)
        second = toys.train(
            Plain,
            after,
            dict(type='AtStartHook', look=lambda runner: state_of(shadow_of(runner))),
            iters=12,
            load_from=f'{first.work_dir}/iter_8.pth',
            resume=True,
        )
        # Nothing is copied on the way: the teacher is a history.
        assert_close(hook_of(second, 'AtStartHook').found, state_of(shadow_of(first)))
        assert second.iter == 12


@pytest.mark.parametrize(
    'line, message',
    [
        (dict(ema_type='ExpMomentumAverag'), "ema_type must be an averaged model .*, got 'ExpMo"),
        (dict(ema_type=Plain), 'ema_type must be an averaged model'),
        (dict(ema_type='ExponentialMovingAverage', gama=3), 'does not take gama=3'),
        (dict(momentm=0.1), "no option 'momentm'. Did you mean 'momentum'"),
        (
            dict(ema_type='StochasticWeightAverage', kind='pair'),
            "needs a copy of the model, kind='s",
        ),
        (dict(device='cpu', kind='averaged'), "device needs a copy of the model, kind='shadow'"),
    ],
    ids=str,
)
def test_line_that_cannot_be_understood_is_one_line(toys, line, message):
    with pytest.raises(OptionError, match=message) as error:
        toys.train(Plain, dict(line, type='SETMAHook'))
    assert '\n' not in str(error.value)
