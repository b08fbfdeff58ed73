# SPDX-License-Identifier: Apache-2.0
"""A stock averaged model stays the object that it is: only how it updates is ours."""

import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage, StochasticWeightAverage
from mmengine.registry import HOOKS

from tests.toys import (
    SAVING,
    SE,
    STS,
    TMA,
    Momentum,
    SyncedAverage,
    assert_close,
    hook_of,
    state_of,
)


class StepDependentAverage(ExponentialMovingAverage):
    """An average of a user's own that starts fast, as mmpose has."""

    def avg_func(self, averaged_param, source_param, steps):
        momentum = (1 - self.momentum) * math.exp(-float(1 + steps) / 20) + self.momentum
        averaged_param.lerp_(source_param, momentum)


def plain_swa(model, momentum=None, **options):
    return StochasticWeightAverage(model, **options)


AVERAGES = {
    'plain': (ExponentialMovingAverage, dict(momentum=0.1)),
    'interval': (ExponentialMovingAverage, dict(momentum=0.1, interval=5)),
    'buffers': (ExponentialMovingAverage, dict(momentum=0.1, update_buffers=True)),
    'buffers and interval': (
        ExponentialMovingAverage,
        dict(momentum=0.1, update_buffers=True, interval=3),
    ),
    'step-dependent': (StepDependentAverage, dict(momentum=0.01)),
    'running mean': (plain_swa, {}),
    'running mean with interval': (plain_swa, dict(interval=3)),
    'own methods and forward': (SyncedAverage, dict(momentum=0.1)),
}


def trained(toys, name, *hooks, iters=13, **changes):
    average, options = AVERAGES[name]
    torch.manual_seed(0)
    return toys.train(Momentum(average, **options), *hooks, iters=iters, **changes)


@pytest.mark.parametrize('name', AVERAGES)
def test_promise_10_without_keeping_the_average_is_the_stock_one_with_all_its_options(toys, name):
    stock, ours = trained(toys, name), trained(toys, name, TMA)
    target = ours.model.target
    assert target.state_dict().keys() == stock.model.target.state_dict().keys()
    assert int(target.steps) == int(stock.model.target.steps)
    assert type(target) is type(stock.model.target)
    for key, value in stock.model.target.module.state_dict().items():
        # With update_buffers the stock class averages integers too, and truncates them.
        if value.is_floating_point():
            torch.testing.assert_close(
                target.module.state_dict()[key], value, rtol=1e-4, atol=1e-5, msg=key
            )


@pytest.mark.parametrize('hook', [STS, SE], ids=['STS', 'SE'])
@pytest.mark.parametrize('name', AVERAGES)
def test_promise_10_interval_and_buffers_of_the_average_stay_in_force(toys, name, hook):
    runner = trained(toys, name, hook)
    options, updater = AVERAGES[name][1], hook_of(runner).updater
    assert updater.interval == options.get('interval', 1)
    buffers = 'average' if options.get('update_buffers') else 'copy'
    assert updater.smoother.buffers == buffers
    teacher, student = runner.model.target.module, runner.model.encoder
    if buffers == 'average':
        assert not torch.equal(teacher[1].running_mean, student[1].running_mean)


def test_our_own_interval_and_buffers_go_before_those_of_the_average(toys):
    runner = trained(toys, 'buffers and interval', dict(STS, interval=2, buffers='copy'))
    assert hook_of(runner).updater.interval == 2
    assert hook_of(runner).updater.smoother.buffers == 'copy'


@HOOKS.register_module(force=True)
class MomentumFromOutsideHook(Hook):
    """Sets an average's momentum as training goes on, as mmselfsup's hook did."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.model.target.momentum = 0.5 if runner.iter < 5 else 0.01


def test_promise_10_momentum_that_is_set_from_outside_is_honoured_at_every_update(toys):
    outside = dict(type='MomentumFromOutsideHook')
    stock, ours = (trained(toys, 'plain', *hooks, outside, iters=25) for hooks in ((), (TMA,)))
    assert_close(ours.model.target, stock.model.target, rtol=1e-4, atol=1e-5)
    # The history says which momentum was in force when.
    segments = hook_of(ours).updater.history.segments
    assert [
        (segment['begin'], segment['rules'][0]['momentum']['value']) for segment in segments
    ] == [(0, 0.5), (5, 0.01)]


def test_promise_10_methods_and_forward_of_the_average_work(toys):
    runner = trained(toys, 'own methods and forward', STS)
    target = runner.model.target
    inputs = torch.randn(4, 6)
    target.eval()
    assert torch.equal(target(inputs), target.module(inputs) * 2)
    target.sync_parameters(runner.model.encoder)
    assert torch.equal(target.module[0].weight, runner.model.encoder[0].weight)


@pytest.mark.parametrize('hook', [TMA, STS, SE], ids=['TMA', 'STS', 'SE'])
@pytest.mark.parametrize('name', ['plain', 'step-dependent', 'running mean with interval'])
def test_resumed_run_is_the_uninterrupted_one_for_every_average(toys, name, hook):
    whole = trained(toys, name, hook, iters=8, default_hooks=SAVING)
    average, options = AVERAGES[name]
    torch.manual_seed(0)
    resumed = toys.train(
        Momentum(average, **options),
        hook,
        dict(type='AtStartHook', look=lambda runner: state_of(runner.model.target)),
        iters=9,
        load_from=f'{whole.work_dir}/iter_8.pth',
        resume=True,
    )
    for key, value in state_of(whole.model.target).items():
        assert torch.equal(hook_of(resumed, 'AtStartHook').found[key], value), key
    # The ninth update, of the same student.
    resumed_again = toys.build(
        Momentum(average, **options),
        hook,
        iters=9,
        load_from=f'{whole.work_dir}/iter_8.pth',
        resume=True,
    )
    resumed_again.train()
    hook_of(whole).updater.held = False
    whole.model.load_state_dict(
        torch.load(f'{whole.work_dir}/iter_8.pth', weights_only=False)['state_dict']
    )
    whole.model.target.update_parameters(whole.model.encoder)
    for key, value in whole.model.target.state_dict().items():
        if 'running' not in key and 'num_batches' not in key:  # These its own forward moves.
            assert torch.equal(resumed_again.model.target.state_dict()[key], value), key
