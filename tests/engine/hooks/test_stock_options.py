# SPDX-License-Identifier: Apache-2.0
"""A replaced hook's line is understood with its own options, and what disagrees is refused."""

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import HOOKS, MODELS, init_default_scope

from se_mm.smoothing import OptionError


@MODELS.register_module(force=True)
class QuarterAverage(ExponentialMovingAverage):
    """An average of a user's own, with an option of its own."""

    def __init__(self, model, momentum=0.1, share=0.25, **kwargs):
        super().__init__(model, momentum, **kwargs)
        self.share = share

    def avg_func(self, averaged_param, source_param, steps):
        averaged_param.lerp_(source_param, self.share)


def setma(**options):
    init_default_scope('mmengine')
    return HOOKS.build(dict(type='SETMAHook', **options))


@pytest.mark.parametrize(
    'options, policy',
    [
        ({}, 'copy'),
        (dict(update_buffers=True), 'average'),
        (dict(update_buffers=False), 'copy'),
        (dict(skip_buffer=True), 'skip'),
        (dict(skip_buffer=False), 'average'),
        (dict(update_buffers=True, buffers='average'), 'average'),
        (dict(update_buffers=True, skip_buffer=False), 'average'),
    ],
)
def test_buffers_are_treated_as_the_replaced_hook_did(options, policy):
    assert setma(**options).buffers == policy


@pytest.mark.parametrize(
    'options, who',
    [
        ({}, None),
        (dict(evaluate_on_ema=True), 'teacher'),
        (dict(evaluate_on_origin=True), 'both'),
        (dict(evaluate_on_ema=False), 'student'),
        (dict(evaluate_on_ema=False, evaluate_on_origin=True), 'student'),
        (dict(evaluate_on_origin=True, evaluate_on='both'), 'both'),
    ],
)
def test_who_is_evaluated_is_as_in_the_replaced_hook(options, who):
    assert setma(**options).evaluate_on == who


def test_momentum_is_that_of_the_average_named():
    momentum = setma(ema_type='MomentumAnnealingEMA', momentum=0.01, gamma=5).momentum
    assert [momentum(step, 99) for step in (0, 10, 10**6)] == pytest.approx([1, 5 / 15, 0.01])
    assert setma(ema_type='ExponentialMovingAverage').momentum(3, 9) == pytest.approx(0.0002)
    teacher, student = torch.zeros(3), torch.ones(3)
    setma(ema_type='QuarterAverage', share=0.5).momentum(teacher, student, 0)
    assert teacher.tolist() == [0.5] * 3


def test_average_of_mmdet_is_found_in_a_config_of_mmdet():
    pytest.importorskip('mmdet.models')
    init_default_scope('mmdet')
    line = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True)
    hook = HOOKS.build(dict(line, type='SETMAHook'))
    assert hook.buffers == 'average'
    assert hook.momentum(10**7, 1) == pytest.approx(0.0002)
    assert hook.momentum(0, 1) > 0.99


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(update_buffers=True, buffers='copy'),
            r"buffers='copy' and update_buffers=True \(which is buffers='average'\) disagree",
        ),
        (dict(update_buffers=True, skip_buffer=True), 'update_buffers=True .* skip_buffer=True'),
        (dict(update_buffers='yes'), "update_buffers='yes' is not allowed: True or False"),
        (dict(evaluate_on='student', evaluate_on_ema=True), "evaluate_on='student' and evaluate_o"),
        (dict(ema_type='MomentumAnealingEMA'), "is not allowed.*Did you mean 'MomentumAnnealing"),
        (dict(ema_type='Adam'), "ema_type='Adam' is not allowed: the name of an averaged model"),
        (dict(ema_type=3), 'ema_type=3 is not allowed'),
        (dict(ema_type='SpatialEnsemble'), "'SpatialEnsemble' is not allowed: it is a spatial"),
        (dict(ema_type='ExponentialMovingAverage', momentum=2), 'refuses momentum=2: '),
        (dict(ema_type='MomentumAnnealingEMA', gamma=-1), 'refuses gamma=-1: '),
        (dict(ema_type='MomentumAnnealingEMA', gama=1), "SETMAHook has no option 'gama'"),
        (
            dict(
                ema_type='MomentumAnnealingEMA', momentum=dict(type='linear', start=0.1, end=0.01)
            ),
            "momentum=.* is given beside ema_type='MomentumAnnealingEMA', which has a schedule",
        ),
    ],
)
def test_what_disagrees_or_does_not_exist_is_one_line(options, message):
    with pytest.raises(OptionError, match=message) as error:
        setma(**options)
    assert '\n' not in str(error.value)
