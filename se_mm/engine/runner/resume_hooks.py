# SPDX-License-Identifier: Apache-2.0
"""Hooks of a ResumableRunner: they seed every iteration, and save what MMEngine does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler import ReduceOnPlateauParamScheduler
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from se_mm.engine.runner.keyed_data import KeyedLoader, Skipping, remembers
from se_mm.rng import seed_all
from se_mm.teachers import Shadow, plain_model

RANKS_KEY = 'ranks'
"""Key in a checkpoint of the states that differ between ranks: a list with one for each rank."""
RankState = dict[str, dict[str, Tensor]]
_EARLY_STOPPING = 'early_stopping'
_ITERATION = 3  # In a seed: its use, see keyed_data.


class SeedHook(Hook):
    """Makes random numbers a function of the seed and the iteration. Called before other hooks."""

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Position an iteration-based loop at its next batch, before MMEngine skips batches."""
        loop, loader = runner.train_loop, runner.train_dataloader
        if not isinstance(loader, KeyedLoader):
            return
        by_iterations = hasattr(loop, 'dataloader_iterator')
        read_again = loop.iter if remembers(loader.dataset) else 0
        if read_again:
            effect = 'reading all earlier batches' if by_iterations else 'resuming inexactly'
            runner.logger.warning(
                f'{effect}: the training pipeline keeps earlier images, which are not in a '
                f'checkpoint'
            )
        if by_iterations:
            batches = loader.batches(loop.iter - read_again)
            for _ in range(read_again):
                next(batches)
            loop.dataloader_iterator = Skipping(batches, loop)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed all generators. Called after the batch was read."""
        # By default the same on all ranks, as in MMEngine: some models choose a branch at random,
        # and all ranks must choose the same.
        rank = get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0
        seed_all((runner.seed, rank, _ITERATION, runner.iter))
        if torch.cuda.is_available():
            torch.cuda.manual_seed(torch.initial_seed())


class StateHook(Hook):
    """Saves the state of early stopping and of each rank. Called after other hooks."""

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Restore early stopping, and run a validation that the checkpoint was saved before."""
        state = runner.message_hub.runtime_info.get(_EARLY_STOPPING, ())
        for hook, (count, best) in zip(_early_stopping(runner), state):
            hook.wait_count, hook.best_score = count, best
        if runner._resume and any(monitored(runner)) and _validation_is_due(runner):
            runner.logger.info('validating first: the checkpoint was saved before its validation')
            runner.val_loop.run()

    def before_train_epoch(self, runner: Runner) -> None:
        """Position an epoch-based loop at its next batch."""
        loop, loader = runner.train_loop, runner.train_dataloader
        if isinstance(loader, KeyedLoader) and not hasattr(loop, 'dataloader_iterator'):
            skipped = loop.iter - loop.epoch * len(loader)
            # It is out of range if the number of ranks or the batch size has changed.
            loader.begin = (loop.epoch, skipped if 0 <= skipped <= len(loader) else 0)

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Store the state of early stopping for the next checkpoint."""
        state = [[hook.wait_count, float(hook.best_score)] for hook in _early_stopping(runner)]
        if state:
            runner.message_hub.update_info(_EARLY_STOPPING, state)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Add what differs between ranks."""
        ranks, runner.ranks = runner.ranks or [rank_state(runner)], None
        if any(own[key] for own in ranks for key in own):
            checkpoint[RANKS_KEY] = ranks


def monitored(runner: Runner) -> Iterator[tuple[str, str]]:
    """Yield the config key and the name of each metric that hooks and schedulers depend on."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            for name in hook.key_indicators:
                yield 'default_hooks.checkpoint.save_best', name
        elif isinstance(hook, EarlyStoppingHook):
            yield f'monitor of {type(hook).__name__}', hook.monitor
    found = runner.param_schedulers or []
    for group in found.values() if isinstance(found, dict) else [found]:
        for scheduler in group:
            if isinstance(scheduler, ReduceOnPlateauParamScheduler):
                yield f'monitor of {type(scheduler).__name__}', scheduler.monitor


def rank_state(runner: Runner) -> RankState:
    """Return the state that only this rank has.

    These are the accumulated gradients between two optimizer steps and, on ranks other than the
    first, the statistics of norms that are not synchronised.
    """
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    pending = any(isinstance(one, OptimWrapper) and not one.should_update() for one in wrappers)
    gradients = {
        name: parameter.grad.cpu()
        for name, parameter in plain_model(runner.model).named_parameters()
        if pending and parameter.grad is not None
    }
    buffers = {} if is_main_process() else {name: b.cpu() for name, b in statistics(runner)}
    return {'gradients': gradients, 'buffers': buffers}


def restore_rank(runner: Runner, ranks: Optional[list[RankState]]) -> None:
    """Restore the state that this rank had when a checkpoint was saved."""
    if not ranks or get_rank() >= len(ranks):
        return
    own = ranks[get_rank()]
    for name, parameter in plain_model(runner.model).named_parameters():
        if name in own['gradients']:
            parameter.grad = own['gradients'][name].to(parameter)
    for name, buffer in statistics(runner):
        if name in own['buffers']:
            buffer.copy_(own['buffers'][name])


def statistics(runner: Runner) -> Iterator[tuple[str, Tensor]]:
    """Yield the statistics of unsynchronised norms in the model and in a teacher beside it."""
    models = [('', plain_model(runner.model))]
    for hook in runner.hooks:
        if isinstance(teacher := getattr(hook, 'teacher', None), Shadow):
            models.append(('teacher.', teacher.module))
    for prefix, model in models:
        for path, module in model.named_modules():
            if isinstance(module, _NormBase) and not isinstance(module, nn.SyncBatchNorm):
                yield from module.named_buffers(f'{prefix}{path}', recurse=False)


def _early_stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def _validation_is_due(runner: Runner) -> bool:
    """Return whether MMEngine's loops validate at this iteration, after saving a checkpoint."""
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    if runner.val_loop is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return False
    if not loop.iter or (by_epoch and loop.iter != loop.epoch * len(loop.dataloader)):
        return False
    loop._decide_current_val_interval()
    done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)
