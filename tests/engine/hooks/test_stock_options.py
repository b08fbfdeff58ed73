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


def bound(**options):
    """The updater of a line, for a model without a teacher in it."""
    return setma(**options).bind(torch.nn.Linear(2, 2))


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
    assert (setma(**options).settings.buffers or 'copy') == policy


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
    assert setma(**options).settings.evaluate_on == who


def test_momentum_is_that_of_the_average_named():
    annealed = bound(ema_type='MomentumAnnealingEMA', momentum=0.01, gamma=5)

    def weight(step):
        annealed.ensemble.step = step  # Which this average reads from its own count.
        return annealed.weight(step)

    assert [weight(step) for step in (1, 10, 10**6)] == pytest.approx([5 / 6, 5 / 15, 0.01])
    assert bound(ema_type='ExponentialMovingAverage').weight(3) == pytest.approx(0.0002)
    assert bound().weight(3) == pytest.approx(0.0002)
    assert bound(ema_type='QuarterAverage', share=0.5).weight(3) == pytest.approx(0.5)


def test_average_may_be_a_class_as_in_configs_of_pure_python():
    assert bound(ema_type=QuarterAverage, share=0.5).weight(3) == pytest.approx(0.5)
    assert bound(ema_type=ExponentialMovingAverage, momentum=0.3).weight(3) == pytest.approx(0.3)


@pytest.mark.parametrize(
    'options, kind',
    [
        ({}, None),
        (dict(momentum=0.1, interval=2), None),
        (dict(ema_type='ExponentialMovingAverage'), 'shadow'),
        (dict(strict_load=False), 'shadow'),
        (dict(device='cpu'), 'shadow'),
        (dict(update_buffers=True), 'shadow'),
        (dict(evaluate_on_origin=True), 'shadow'),
        (dict(skip_buffer=False), 'pair'),
    ],
)
def test_promise_10_options_of_a_line_say_what_kind_of_teacher_it_means(options, kind):
    assert setma(**options)._options.kind == kind


def test_average_of_mmdet_is_found_in_a_config_of_mmdet():
    pytest.importorskip('mmdet.models')
    init_default_scope('mmdet')
    line = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True)
    updater = HOOKS.build(dict(line, type='SETMAHook')).bind(torch.nn.Linear(2, 2))
    assert updater.smoother.buffers == 'average'
    assert updater.weight(10**7) == pytest.approx(0.0002)
    assert updater.weight(1) > 0.99


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(update_buffers=True, buffers='copy'),
            "update_buffers=True means buffers='average', but buffers='copy' is set too",
        ),
        (
            dict(update_buffers=True, skip_buffer=True),
            "skip_buffer=True means buffers='skip', but buffers='average' is set too",
        ),
        (dict(update_buffers='yes'), "update_buffers must be True or False, got 'yes'"),
        (
            dict(evaluate_on='student', evaluate_on_ema=True),
            "evaluate_on_ema=True .* means evaluate_on='teacher', but evaluate_on='student' is set",
        ),
        (
            dict(ema_type='MomentumAnealingEMA'),
            "got 'MomentumAnealingEMA'. Did you mean 'MomentumAnnealing",
        ),
        (dict(ema_type='Adam'), "ema_type must be an averaged model such as .*, got 'Adam'"),
        (dict(ema_type=3), 'ema_type must be an averaged model such as .*, got 3'),
        (
            dict(ema_type='SpatialEnsemble'),
            "ema_type must not be an averaged model of se_mm, got 'SpatialEnsemble'",
        ),
        (
            dict(ema_type='ExponentialMovingAverage', momentum=2),
            'ExponentialMovingAverage does not take momentum=2: ',
        ),
        (
            dict(ema_type='MomentumAnnealingEMA', gamma=-1),
            'MomentumAnnealingEMA does not take gamma=-1: ',
        ),
        (
            dict(ema_type='MomentumAnnealingEMA', gama=1),
            'MomentumAnnealingEMA does not take gama=1: .*gama',
        ),
        (
            dict(
                ema_type='MomentumAnnealingEMA', momentum=dict(type='linear', start=0.1, end=0.01)
            ),
            "momentum must be a number with ema_type='MomentumAnnealingEMA', which has its",
        ),
    ],
)
def test_what_disagrees_or_does_not_exist_is_one_line(options, message):
    with pytest.raises(OptionError, match=message) as error:
        bound(**options)
    assert '\n' not in str(error.value)
