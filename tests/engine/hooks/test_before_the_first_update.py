# SPDX-License-Identifier: Apache-2.0
"""Until its first update the teacher is the student: nothing unused is evaluated or saved."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from tests.toys import EMA, SAVING, SE, TMA, VALIDATING, Plain, hook_of

OURS = [dict(TMA, momentum=0.1), SE]
ACCUMULATED = dict(optimizer=dict(type='SGD', lr=0.0), accumulative_counts=4)


@HOOKS.register_module(force=True)
class KeepLossesHook(Hook):
    """Keeps what each validation found."""

    priority = 'LOWEST'

    def __init__(self, first=False):
        self.first, self.losses = first, []

    def before_train(self, runner):
        if self.first:
            runner.val_loop.run()

    def after_val_epoch(self, runner, metrics=None):
        self.losses.append(metrics['loss'])


def perfect():
    return dict(type='Plain', perfect=True)


def losses(runner):
    return next(h for h in runner.hooks if isinstance(h, KeepLossesHook)).losses


# Before a training begins the stock hook validates the weights that its model was built with.
@pytest.mark.parametrize('hook', OURS, ids=['TMA', 'SE'])
@pytest.mark.parametrize(
    'changes, first, count',
    [
        (
            dict(
                optim_wrapper=ACCUMULATED,
                train_cfg=dict(by_epoch=False, max_iters=5, val_interval=1),
            ),
            False,
            5,
        ),
        (dict(lr=0.0, train_cfg=dict(by_epoch=False, max_iters=2, val_interval=1)), True, 3),
        (
            dict(
                lr=0.0,
                train_cfg=dict(by_epoch=False, max_iters=4, val_interval=1),
                begin={'begin_iter': 3},
            ),
            False,
            4,
        ),
    ],
    ids=['accumulated', 'before training', 'before the begin'],
)
def test_promise_2_what_is_validated_early_is_the_students(toys, hook, changes, first, count):
    changes = dict(changes)
    hook = dict(hook, **changes.pop('begin', {}))
    runner = toys.train(
        perfect(), hook, dict(type='KeepLossesHook', first=first), **VALIDATING, **changes
    )
    assert losses(runner) == pytest.approx([0.0] * count, abs=1e-8)


@pytest.mark.parametrize('hook', [EMA, *OURS], ids=['stock', 'TMA', 'SE'])
def test_promise_2_what_is_saved_early_is_the_students(toys, hook):
    runner = toys.train(perfect(), hook, iters=4, optim_wrapper=ACCUMULATED, default_hooks=SAVING)
    for step in (1, 2, 3, 4):
        saved = torch.load(f'{runner.work_dir}/iter_{step}.pth', weights_only=False)
        assert torch.equal(saved['state_dict']['head.weight'], torch.ones(1, 6))
        assert torch.equal(saved['ema_state_dict']['module.head.weight'], torch.ones(1, 6))


@pytest.mark.parametrize('hook', OURS, ids=['TMA', 'SE'])
@pytest.mark.parametrize('step', [1, 2, 3, 4, 6])
def test_run_that_is_resumed_before_its_first_update_is_the_uninterrupted_one(toys, hook, step):
    accumulated = dict(optimizer=dict(type='SGD', lr=0.05), accumulative_counts=4)
    whole = toys.train(Plain, hook, iters=12, optim_wrapper=accumulated, default_hooks=SAVING)
    resumed = toys.train(
        Plain,
        hook,
        iters=12,
        optim_wrapper=accumulated,
        load_from=f'{whole.work_dir}/iter_{step}.pth',
        resume=True,
    )
    # The loader begins anew, so the students differ; the updates are counted alike, and the first
    # of them copies.
    assert hook_of(resumed).updater.ensemble.step == hook_of(whole).updater.ensemble.step == 3
