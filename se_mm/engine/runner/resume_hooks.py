# SPDX-License-Identifier: Apache-2.0
"""The hooks of a ResumableRunner: they key what is drawn, and keep what MMEngine does not."""

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
"""Where a checkpoint has what each rank has for itself, in a list with one entry for each."""
RankState = dict[str, dict[str, Tensor]]
_EARLY_STOPPING = 'early_stopping'
_ITERATION = 3  # What a seed is for: see keyed_data.


class SeedHook(Hook):
    """Makes what an iteration draws a function of the seed and the iteration. Called first."""

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Let a loop by iterations go on with the next batch. Called before MMEngine skips."""
        loop, loader = runner.train_loop, runner.train_dataloader
        if not isinstance(loader, KeyedLoader):
            return
        again = loop.iter and remembers(loader.dataset)
        if not hasattr(loop, 'dataloader_iterator'):
            if again:
                runner.logger.warning(
                    'the pipeline of the training data keeps earlier images, which no checkpoint '
                    'has: the resumed run is not exactly the same'
                )
            return
        batches = loader.batches(0 if again else loop.iter)
        if again:
            runner.logger.info(
                f'reading {loop.iter} earlier batches: the pipeline of the training data keeps '
                f'earlier images'
            )
            for _ in range(loop.iter):
                next(batches)
        loop.dataloader_iterator = Skipping(batches, loop)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed all generators. Called when the batch is there."""
        # The same on all ranks unless asked otherwise, as in MMEngine: some models choose a branch
        # at random, and all ranks must choose alike.
        rank = get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0
        seed_all((runner.seed, rank, _ITERATION, runner.iter))
        if torch.cuda.is_available():
            torch.cuda.manual_seed(torch.initial_seed())


class StateHook(Hook):
    """Keeps the state of early stopping, and what each rank has for itself. Called last."""

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Restore early stopping, and make up for a validation that was interrupted."""
        state = runner.message_hub.runtime_info.get(_EARLY_STOPPING, ())
        for hook, (count, best) in zip(_early_stopping(runner), state):
            hook.wait_count, hook.best_score = count, best
        if runner._resume and any(monitored(runner)) and _validation_is_due(runner):
            runner.logger.info('validating first: the checkpoint was saved before its validation')
            runner.val_loop.run()

    def before_train_epoch(self, runner: Runner) -> None:
        """Let a loop by epochs begin at the place of the run."""
        loop, loader = runner.train_loop, runner.train_dataloader
        if isinstance(loader, KeyedLoader) and not hasattr(loop, 'dataloader_iterator'):
            skipped = loop.iter - loop.epoch * len(loader)
            # Other numbers come from another number of ranks, or another batch size.
            loader.begin = (loop.epoch, skipped if 0 <= skipped <= len(loader) else 0)

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Note the state of early stopping, for the next checkpoint."""
        state = [[hook.wait_count, float(hook.best_score)] for hook in _early_stopping(runner)]
        if state:
            runner.message_hub.update_info(_EARLY_STOPPING, state)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Add what each rank has for itself."""
        ranks, runner.ranks = runner.ranks or [rank_state(runner)], None
        if any(own[key] for own in ranks for key in own):
            checkpoint[RANKS_KEY] = ranks


def monitored(runner: Runner) -> Iterator[tuple[str, str]]:
    """Yield each metric that decides on anything in a run, after the config key that names it."""
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
    """What this rank has for itself.

    Between two optimizer steps these are the accumulated gradients; on ranks other than the first
    also the statistics of norms that are not synchronised.
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
    """Restore what this rank had for itself when a checkpoint was saved."""
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
    """Statistics of norms that are not synchronised, of the model and of a teacher beside it."""
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
    """Whether MMEngine's loops validate at the place of the run. Checkpoints are saved before."""
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    if runner.val_loop is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return False
    if not loop.iter or (by_epoch and loop.iter != loop.epoch * len(loop.dataloader)):
        return False
    loop._decide_current_val_interval()
    done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)
