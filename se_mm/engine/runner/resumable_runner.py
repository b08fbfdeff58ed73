# SPDX-License-Identifier: Apache-2.0
"""A Runner whose runs resume exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmengine.dist import (
    broadcast_object_list,
    gather_object,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler import ReduceOnPlateauParamScheduler
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint_to_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from se_mm.checkpoints.read import (
    check_training_checkpoint,
    mmengine_classes_allowed,
    newest_checkpoint,
    read_checkpoint,
)
from se_mm.checkpoints.write import remove_leftovers, whole_file
from se_mm.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook
from se_mm.engine.runner.keyed_data import KeyedLoader, Skipping, remembers
from se_mm.rng import seed_all
from se_mm.smoothing.options import OptionError

RANKS_KEY = 'ranks'
"""The checkpoint's key for what each rank has for itself."""
_EARLY_STOPPING = 'early_stopping'
_ITERATION = 3  # What a seed is for: see keyed_data.


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """A Runner whose runs resume exactly where they were stopped.

    MMEngine's Runner resumes with the right weights but with other random numbers. With this one

    - random numbers, in the data and in the model, are a function of the seed and the iteration, so
      no generator state needs saving and no data are read again;
    - a checkpoint has what differs between ranks: gradients accumulated between two optimizer
      steps, and statistics of batch norms that are not synchronised;
    - checkpoints are written atomically, and an old one is removed after the new one is there;
    - local checkpoints are read once, verified, and restricted to tensors and plain data;
    - a resume takes the newest undamaged checkpoint, and refuses one of another model.

    Models, optimizers and hooks are loaded by MMEngine's own functions, with its tolerance.

    Args:
        resume: As of :class:`mmengine.runner.Runner`; or ``'auto'``: from the newest checkpoint of
            the work dir, and where there is none start from ``load_from``.

    Example:
        >>> runner_type = 'ResumableRunner'  # the default of tools/train.py
    """

    ranks: Optional[list[dict[str, dict[str, Tensor]]]] = None
    """What each rank has for itself, while a checkpoint is saved on all ranks."""
    _building_for_training = False
    _resuming = False
    _unused: tuple[str, Any] = ('', None)  # The checkpoint that was read last, and not loaded yet.

    def register_hook(self, hook: Union[Hook, dict], priority: Any = None) -> None:
        """Register a hook; a ``SafeCheckpointHook`` replaces MMEngine's ``CheckpointHook``."""
        kind = hook.get('type') if isinstance(hook, dict) else None
        if kind is CheckpointHook or (isinstance(kind, str) and HOOKS.get(kind) is CheckpointHook):
            hook = {**hook, 'type': SafeCheckpointHook}
        super().register_hook(hook, priority)

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        """Register the hooks of the config and those of this runner."""
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(_SeedHook())
        self.register_hook(_StateHook())

    def train(self) -> nn.Module:
        """Train, resuming from a checkpoint if asked to."""
        if self._resume and not self._has_loaded:
            self._choose_checkpoint()
        if is_main_process():
            remove_leftovers(self.work_dir)
        return super().train()

    def build_train_loop(self, loop: Union[BaseLoop, dict]) -> BaseLoop:
        """Build the train loop with a keyed dataloader."""
        self._building_for_training = True
        try:
            return super().build_train_loop(loop)
        finally:
            self._building_for_training = False

    def build_dataloader(
        self, dataloader: Any, seed: Optional[int] = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a dataloader; for training, one that depends on the place in the run alone."""
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        if self._building_for_training and loader is not dataloader:
            loader = KeyedLoader.of(loader, self.seed, get_rank())
        return loader

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume from a checkpoint.

        Raises:
            OptionError: If it is of another model or optimizer.
        """
        self._resuming = True
        try:
            super().resume(filename, *args, **kwargs)
        except ValueError as error:
            if 'parameter group' not in str(error):
                raise
            raise OptionError(
                f'cannot resume from {filename!r}: its optimizer is of other parameters ({error})'
            ) from error
        finally:
            self._resuming = False

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: Any = ((r'^module.', ''),),
    ) -> dict[str, Any]:
        """Load a checkpoint as MMEngine does, from a file that is read safely and only once.

        Raises:
            OptionError: If it is damaged; or, to resume, if it is of another model.
        """
        checkpoint = self._read(filename, map_location)
        self._unused = ('', None)
        if not isinstance(checkpoint, dict):
            raise OptionError(f'checkpoint {filename!r} must hold a dict, got {type(checkpoint)}')
        if self._resuming:
            check_training_checkpoint(filename, checkpoint)
            self._complete(checkpoint, filename)
            if 'ema_state_dict' in checkpoint:  # Hooks load both.
                _check_fit(_plain(self.model), checkpoint['state_dict'], filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = _plain(self.model)
        if self._resuming:
            _check_fit(model, checkpoint['state_dict'], filename)
        _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=revise_keys)
        if self._resuming:
            self._restore(checkpoint.get(RANKS_KEY))
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: Optional[dict] = None,
        *args: Any,
        backend_args: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        """Save a checkpoint on rank 0, as MMEngine does; a local file is written atomically."""
        if not is_main_process():
            return
        options: Any = dict(kwargs, backend_args=backend_args)
        backend = get_file_backend(out_dir, backend_args=backend_args)
        if file_client_args is not None or not isinstance(backend, LocalBackend):
            super().save_checkpoint(out_dir, filename, file_client_args, *args, **options)
            return
        with whole_file(None, Path(out_dir) / filename) as temporary:
            super().save_checkpoint(out_dir, temporary.name, None, *args, **options)

    def own_state(self) -> dict[str, dict[str, Tensor]]:
        """What this rank alone has.

        Between two optimizer steps these are the accumulated gradients; on ranks other than the
        first also the statistics of norms that are not synchronised.
        """
        gradients = {
            name: parameter.grad.cpu()
            for name, parameter in _plain(self.model).named_parameters()
            if parameter.grad is not None and self._accumulating()
        }
        buffers = {} if is_main_process() else {k: v.cpu() for k, v in self._statistics()}
        return {'gradients': gradients, 'buffers': buffers}

    def gather_ranks(self) -> None:
        """Collect what each rank has for itself on rank 0. Called on all ranks before a save."""
        self.ranks = gather_object(self.own_state(), dst=0) if get_world_size() > 1 else None

    def _init_model_weights(self) -> None:
        with mmengine_classes_allowed():  # An init_cfg may name a training checkpoint.
            super()._init_model_weights()

    def _choose_checkpoint(self) -> None:
        """Choose the checkpoint to resume from, and take its seed before anything is drawn."""
        if self._resume == 'auto' or self._load_from is None:
            newest = self._newest_checkpoint()
            self._resume = newest is not None
            self._load_from = newest or self._load_from
            if newest is None:
                start = 'from scratch' if self._load_from is None else f'from {self._load_from}'
                self.logger.warning(f'no checkpoint in {self.work_dir}: the run starts {start}')
                return
        checkpoint = self._read(self._load_from)
        self._unused = (self._load_from, checkpoint)
        check_training_checkpoint(self._load_from, checkpoint)
        seed, configured = checkpoint['meta'].get('seed'), self._randomness_cfg.get('seed')
        if seed is not None and seed != self.seed:
            if configured is not None:
                self.logger.warning(
                    f'randomness.seed={configured} is ignored: the checkpoint has seed {seed}'
                )
            self._randomness_cfg.update(seed=seed)
            self.set_randomness(**self._randomness_cfg)

    def _newest_checkpoint(self) -> Optional[str]:
        """The newest checkpoint of the work dir. Rank 0 chooses it and tells the others."""
        told: list[Optional[str]] = [None, None]
        if is_main_process():
            try:
                path, checkpoint, reasons = newest_checkpoint(self.work_dir)
            except OptionError as error:
                told[1] = str(error)
            else:
                for reason in reasons:
                    self.logger.warning(f'{reason}; trying an older checkpoint')
                if path is not None:
                    told[0] = str(path)
                    self._unused = (str(path), checkpoint)
        broadcast_object_list(told)
        if told[1] is not None:
            raise OptionError(told[1])
        return told[0]

    def _read(self, filename: str, map_location: Any = 'cpu') -> Any:
        """Read a checkpoint, unless it was read already."""
        if self._unused[0] == filename:
            return self._unused[1]
        if '://' not in filename:
            return read_checkpoint(filename, map_location)
        with mmengine_classes_allowed():
            return CheckpointLoader.load_checkpoint(filename, map_location)

    def _complete(self, checkpoint: dict[str, Any], filename: str) -> None:
        """Fill in what MMEngine's resume requires, and say what the checkpoint lacks."""
        lacking = [
            key
            for key in ('optimizer', 'param_schedulers', 'message_hub')
            if key not in checkpoint and getattr(self, key, True) is not None
        ]
        if lacking:
            self.logger.warning(f'{filename} has no {", ".join(lacking)}: new ones are used')
        checkpoint.setdefault('message_hub', self.message_hub.state_dict())
        # MMEngine would run the text of an old config as Python.
        checkpoint['meta'].pop('config', None)

    def _accumulating(self) -> bool:
        wrapper = self.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        return any(isinstance(one, OptimWrapper) and not one.should_update() for one in wrappers)

    def _statistics(self) -> Iterator[tuple[str, Tensor]]:
        """Statistics of unsynchronised norms, in the model and in a teacher beside it."""
        outside = [getattr(getattr(hook, 'teacher', None), 'outside', None) for hook in self.hooks]
        # The teacher of today's Shadow; to be removed with it.
        for place, model in (('', _plain(self.model)), *(('teacher.', other) for other in outside)):
            for path, module in model.named_modules() if model is not None else ():
                if isinstance(module, _NormBase) and not isinstance(module, nn.SyncBatchNorm):
                    yield from module.named_buffers(f'{place}{path}', recurse=False)

    def _restore(self, ranks: Optional[list[dict[str, dict[str, Tensor]]]]) -> None:
        """Restore what this rank had for itself when the checkpoint was saved."""
        if not ranks or get_rank() >= len(ranks):
            return
        own = ranks[get_rank()]
        for name, parameter in _plain(self.model).named_parameters():
            if name in own['gradients']:
                parameter.grad = own['gradients'][name].to(parameter)
        for name, buffer in self._statistics():
            if name in own['buffers']:
                buffer.copy_(own['buffers'][name])


class _SeedHook(Hook):
    """Makes what an iteration draws a function of the seed and the iteration."""

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Let a loop by iterations go on with the next batch. Called before MMEngine skips."""
        loop, loader = runner.train_loop, runner.train_dataloader
        if not isinstance(loader, KeyedLoader) or not hasattr(loop, 'dataloader_iterator'):
            return
        if remembers(loader.dataset):  # MMEngine reads the earlier batches again.
            loop.dataloader_iterator = loader.batches(0)
            return
        if loop.iter and not loader.jumps:
            kind = type(getattr(loader.batch_sampler, 'sampler', loader.batch_sampler)).__name__
            runner.logger.info(
                f'{kind} cannot skip: drawing the indices of {loop.iter} earlier batches'
            )
        loop.dataloader_iterator = Skipping(loader.batches(loop.iter), loop.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed all generators. Called when the batch is there."""
        # The same on all ranks unless asked otherwise, as in MMEngine: some models choose a branch
        # at random, and all ranks must choose alike.
        rank = get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0
        seed_all((runner.seed, rank, _ITERATION, runner.iter))
        if torch.cuda.is_available():
            torch.cuda.manual_seed(torch.initial_seed())
        loader = runner.train_dataloader
        if isinstance(loader, KeyedLoader) and hasattr(runner.train_loop, 'dataloader_iterator'):
            loader.arrive(*loader.place(runner.iter))


class _StateHook(Hook):
    """Saves and restores what MMEngine does not. Called last."""

    priority = 'LOWEST'

    def before_train(self, runner: ResumableRunner) -> None:
        """Restore the state of early stopping, and make up for an interrupted validation."""
        state = runner.message_hub.runtime_info.get(_EARLY_STOPPING, ())
        for hook, (count, best) in zip(_early_stopping(runner), state):
            hook.wait_count, hook.best_score = count, best
        if runner._resume and _uses_validation(runner) and _validation_is_due(runner):
            runner.logger.info('validating first: the checkpoint was saved before its validation')
            runner.val_loop.run()

    def before_train_epoch(self, runner: ResumableRunner) -> None:
        """Let a loop by epochs begin at the place of the run."""
        loop, loader = runner.train_loop, runner.train_dataloader
        if not isinstance(loader, KeyedLoader) or hasattr(loop, 'dataloader_iterator'):
            return
        skipped = loop.iter - loop.epoch * len(loader)
        # Other numbers come from another number of ranks, or another batch size.
        loader.begin = (loop.epoch, skipped if 0 <= skipped <= len(loader) else 0)
        loader.arrive(loop.epoch, 0)
        if runner._resume and loop.iter and remembers(loader.dataset):
            runner.logger.warning(
                'the pipeline of the training data keeps earlier images, which no checkpoint has: '
                'the resumed run is not exactly the same'
            )

    def after_val_epoch(self, runner: ResumableRunner, metrics: Any = None) -> None:
        """Note the state of early stopping, for the next checkpoint."""
        state = [[hook.wait_count, float(hook.best_score)] for hook in _early_stopping(runner)]
        if state:
            runner.message_hub.update_info(_EARLY_STOPPING, state)

    def before_save_checkpoint(self, runner: ResumableRunner, checkpoint: dict) -> None:
        """Add what each rank has for itself."""
        ranks, runner.ranks = runner.ranks or [runner.own_state()], None
        if any(own[key] for own in ranks for key in own):
            checkpoint[RANKS_KEY] = ranks


def _early_stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def _uses_validation(runner: Runner) -> bool:
    """Whether the result of a validation has a part in the run."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [one for group in schedulers.values() for one in group]
    return (
        bool(_early_stopping(runner))
        or any(getattr(hook, 'save_best', None) for hook in runner.hooks)
        or any(isinstance(one, ReduceOnPlateauParamScheduler) for one in schedulers)
    )


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


def _check_fit(model: nn.Module, state: Mapping[str, Any], filename: str) -> None:
    """Raise OptionError if nothing in a checkpoint is of a model, or a tensor has another shape."""
    own = model.state_dict()
    saved = {re.sub(r'^module\.', '', name): value for name, value in state.items()}
    shared = [name for name in own if name in saved]
    if own and not shared:
        raise OptionError(
            f'cannot resume from {filename!r}: it is of another model, none of its tensors is in '
            f'{type(model).__name__}'
        )
    for name in shared:
        tensors = (own[name], saved[name])
        if all(isinstance(one, Tensor) and not is_lazy(one) for one in tensors):
            here, there = (tuple(one.shape) for one in tensors)
            if here != there:
                raise OptionError(
                    f'cannot resume from {filename!r}: it is of another model, {name!r} has shape '
                    f'{there} there and {here} in {type(model).__name__}'
                )


def _plain(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
