# SPDX-License-Identifier: Apache-2.0
"""A step of the optimizer that its loss scaler leaves out moves no teacher."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from tests.toys import SE, STS, Momentum, Plain, ToyMeanTeacher, hook_of

if not hasattr(torch.amp, 'GradScaler'):
    pytest.skip('needs the GradScaler for CPUs of PyTorch 2.3', allow_module_level=True)


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledOnCPU(OptimWrapper):
    """What ``AmpOptimWrapper`` is on a GPU; gradients of chosen steps overflow."""

    def __init__(self, overflows=(), **kwargs):
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=4.0, growth_interval=1000)
        self.overflows, self.calls = set(overflows), 0

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        if self.calls in self.overflows:
            self.optimizer.param_groups[0]['params'][0].grad.fill_(torch.inf)
        self.calls += 1
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self.loss_scaler.get_scale())


def scaled(*overflows, **options):
    sgd = dict(type='SGD', lr=0.05)
    return dict(type='ScaledOnCPU', optimizer=sgd, overflows=overflows, **options)


CASES = {
    'shadow': (Plain, 0),
    'pair': (ToyMeanTeacher, 1),  # Copied before the first iteration too.
    'averaged': (Momentum, 0),  # Asks before the step of an iteration is made.
}


@pytest.mark.parametrize('kind', CASES)
@pytest.mark.parametrize('hook', [dict(STS, momentum=0.1), SE], ids=['STS', 'SE'])
@pytest.mark.parametrize('overflows', [(), (0,), (2,), (1, 2, 5)])
def test_promise_5_step_that_the_loss_scaler_skipped_is_none(toys, kind, hook, overflows):
    model, before = CASES[kind]
    runner = toys.train(model, hook, iters=8, optim_wrapper=scaled(*overflows))
    made = 8 - len(overflows)
    if kind == 'averaged':
        # The first request is before any step; each other answers the step before it.
        made = 1 + sum(step not in overflows for step in range(7))
    assert hook_of(runner).updater.ensemble.step == made + before


@pytest.mark.parametrize('kind', ['shadow', 'pair'])
def test_promise_5_teacher_stays_as_it_is_at_a_skipped_step(toys, kind):
    model, _ = CASES[kind]
    hook = dict(STS, keep_prob=0.0, momentum=0.5)
    # One run ends before the skipped step, the other after it.
    short = toys.train(model, hook, iters=4, optim_wrapper=scaled(4))
    longer = toys.train(model, hook, iters=5, optim_wrapper=scaled(4))
    for one, other in zip(
        hook_of(short).teacher.module.parameters(), hook_of(longer).teacher.module.parameters()
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize('kind', ['shadow', 'pair'])
def test_promise_5_skipped_steps_under_accumulation_and_every_iter(toys, kind):
    model, before = CASES[kind]
    hook = dict(STS, momentum=0.1)
    wrapper = scaled(1, accumulative_counts=2)
    runner = toys.train(model, hook, iters=8, optim_wrapper=wrapper)
    assert hook_of(runner).updater.ensemble.step == 3 + before
    every = toys.train(model, dict(hook, every_iter=True), iters=8, optim_wrapper=wrapper)
    assert hook_of(every).updater.ensemble.step == 8 + before
