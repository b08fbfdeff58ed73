# SPDX-License-Identifier: Apache-2.0
"""A Runner whose runs resume exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Union

from mmengine.dist import broadcast_object_list, gather_object, get_rank, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn

from se_mm.checkpoints.read import check_training_checkpoint, newest_checkpoint, read_checkpoint
from se_mm.checkpoints.write import remove_leftovers, whole_file
from se_mm.datasets.loader_checks import check_train_loader
from se_mm.engine.fit import check_when_loaded
from se_mm.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook
from se_mm.engine.runner.keyed_data import KeyedLoader
from se_mm.engine.runner.resume_hooks import (
    RANKS_KEY,
    RankState,
    SeedHook,
    StateHook,
    rank_state,
    restore_rank,
)
from se_mm.smoothing import OptionError, TeacherFault
from se_mm.smoothing.guards import not_finite
from se_mm.teachers import plain_model

_MISFITS = ('parameter group', 'Error(s) in loading state_dict')
"""Parts of PyTorch's errors for the state of another optimizer or model."""


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """A Runner whose runs resume exactly where they were stopped.

    MMEngine's Runner resumes with the right weights but with other random numbers. In this one:

    - Random numbers, in the data and in the model, depend only on the seed and the iteration, so no
      generator state is saved and no data are read again.
    - A checkpoint contains what differs between ranks: accumulated gradients, statistics of norms.
    - Checkpoints are written atomically, and an old one is removed after the new one is written.
    - Local checkpoints are read once, verified, and restricted to tensors and plain data.
    - A resume selects the newest undamaged checkpoint, and rejects one of another model.

    MMEngine's own functions load models, optimizers and hooks, with its tolerance. The arguments
    are those of :class:`mmengine.runner.Runner`, where ``resume`` may also be ``'auto'``: resume
    from the newest checkpoint of the work dir; without one, start from ``load_from``.

    Example:
        >>> runner_type = 'ResumableRunner'  # the default of tools/train.py
    """

    ranks: Optional[list[RankState]] = None
    """State of each rank, while all ranks save a checkpoint."""
    _resume: Any  # MMEngine's, as are the next two; mypy does not know their types.
    _load_from: Any
    _train_dataloader: Any
    _resuming = False
    _chosen: tuple[str, Any] = ('', None)  # The checkpoint to resume from, until it is loaded.

    def register_hook(self, hook: Union[Hook, dict], priority: Any = None) -> None:
        """Register a hook; a ``SafeCheckpointHook`` replaces MMEngine's ``CheckpointHook``."""
        kind = hook.get('type') if isinstance(hook, dict) else None
        if kind is CheckpointHook or (isinstance(kind, str) and HOOKS.get(kind) is CheckpointHook):
            hook = {**hook, 'type': SafeCheckpointHook}
        super().register_hook(hook, priority)

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        """Register the hooks of the config and those of this runner."""
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(SeedHook())
        self.register_hook(StateHook())

    def train(self) -> nn.Module:
        """Train, after resuming from a checkpoint if ``resume`` is set."""
        if self._resume and not self._has_loaded:
            self._choose_checkpoint()
        if is_main_process():
            remove_leftovers(self.work_dir)
        try:
            return super().train()
        except Exception as error:
            _say_if_diverged(self, error)
            raise

    def build_train_loop(self, loop: Union[BaseLoop, dict]) -> BaseLoop:
        """Build the train loop with a :class:`KeyedLoader`."""
        config = self._train_dataloader
        if isinstance(config, dict):
            apart = self._randomness_cfg.get('diff_rank_seed', False)
            loader = self.build_dataloader(config, seed=self.seed, diff_rank_seed=apart)
            check_train_loader(loader, plain_model(self.model))
            self._train_dataloader = KeyedLoader.of(loader, self.seed, get_rank())
        try:
            return super().build_train_loop(loop)
        finally:
            self._train_dataloader = config

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume from a checkpoint; raise OptionError if it is of another model or optimizer."""
        self._resuming = True
        try:
            super().resume(filename, *args, **kwargs)
        except (RuntimeError, ValueError) as error:
            if not any(text in str(error) for text in _MISFITS):
                raise
            raise OptionError(
                f'cannot resume from {filename!r}: its model or its optimizer has other '
                f'parameters ({" ".join(str(error).split())})'
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
        """Load a checkpoint as MMEngine does, but read the file safely and only once."""
        (name, checkpoint), self._chosen = self._chosen, ('', None)
        if name != filename:
            checkpoint = read_checkpoint(filename, map_location)
        if not isinstance(checkpoint, dict):
            raise OptionError(f'checkpoint {filename!r} must be a dict, got {type(checkpoint)}')
        model = plain_model(self.model)
        if self._resuming:
            check_training_checkpoint(filename, checkpoint)
            self._complete(checkpoint, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        if self._resuming:
            check_when_loaded(model, checkpoint, filename)
        _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=revise_keys)
        if self._resuming:
            restore_rank(self, checkpoint.get(RANKS_KEY))
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **options: Any) -> None:
        """Save a checkpoint on rank 0 as MMEngine does, but write a local file atomically."""
        if not is_main_process():
            return
        backend = get_file_backend(out_dir, backend_args=options.get('backend_args'))
        if options.get('file_client_args') or not isinstance(backend, LocalBackend):
            super().save_checkpoint(out_dir, filename, *args, **options)
            return
        with whole_file(None, Path(out_dir) / filename) as temporary:
            super().save_checkpoint(out_dir, temporary.name, *args, **options)

    def gather_ranks(self) -> None:
        """Collect the states of the ranks. Called on all ranks before saving a checkpoint."""
        self.ranks = gather_object(rank_state(self), dst=0)

    def _choose_checkpoint(self) -> None:
        """Choose the checkpoint to resume from, and use its seed for all random numbers."""
        if self._resume == 'auto' or self._load_from is None:
            newest = self._newest_checkpoint()
            self._resume, self._load_from = newest is not None, newest or self._load_from
            if newest is None:
                start = f'from {self._load_from}' if self._load_from else 'from scratch'
                self.logger.warning(f'no checkpoint in {self.work_dir}: the run starts {start}')
                return
        if self._chosen[0] != self._load_from:
            self._chosen = (self._load_from, read_checkpoint(self._load_from))
        check_training_checkpoint(*self._chosen)
        seed = self._chosen[1]['meta'].get('seed')
        if seed is not None and seed != self.seed:
            if self._randomness_cfg.get('seed') is not None:
                self.logger.warning(f'randomness.seed is ignored: the checkpoint has seed {seed}')
            self._randomness_cfg.update(seed=seed)
            self.set_randomness(**self._randomness_cfg)

    def _newest_checkpoint(self) -> Optional[str]:
        """Return the newest checkpoint of the work dir, chosen by rank 0 for all ranks."""
        told: list[Optional[str]] = [None, None]
        if is_main_process():
            try:
                path, checkpoint, reasons = newest_checkpoint(self.work_dir)
                for reason in reasons:
                    self.logger.warning(f'{reason}; trying an older checkpoint')
                if path is not None:
                    told[0] = str(path)
                    self._chosen = (str(path), checkpoint)
            except OptionError as error:
                told[1] = str(error)
        broadcast_object_list(told)
        if told[1] is not None:
            raise OptionError(told[1])
        return told[0]

    def _complete(self, checkpoint: dict[str, Any], filename: str) -> None:
        """Add what MMEngine's resume requires, and warn of what the checkpoint lacks."""
        expected = ['optimizer', 'message_hub']
        expected += ['param_schedulers'] if self.param_schedulers is not None else []
        lacking = [key for key in expected if key not in checkpoint]
        if lacking:
            self.logger.warning(f'{filename} has no {", ".join(lacking)}: new ones are used')
        checkpoint.setdefault('message_hub', self.message_hub.state_dict())
        # MMEngine would execute the text of the old config as Python.
        checkpoint['meta'].pop('config', None)


def _say_if_diverged(runner: Runner, error: Exception) -> None:
    """Log which trained tensors are not finite, and add a note to the error that ended a run.

    For example, a detector with NaN weights finds nothing and then fails for lack of a loss.
    """
    if isinstance(error, (OptionError, TeacherFault)):
        return  # They name the cause themselves.
    parameters = plain_model(runner.model).named_parameters()
    try:
        names = not_finite((name, value) for name, value in parameters if value.requires_grad)
    except Exception:  # The device may have failed.
        return
    if not names:
        return
    more = f', and so are {len(names) - 1} others' if len(names) > 1 else ''
    said = (
        f'the run has diverged: tensor {names[0]!r} of the student is not finite at iteration '
        f'{runner.iter}{more}, which may have caused the {type(error).__name__}; resume from the '
        f'last checkpoint, for example with a lower learning rate'
    )
    runner.logger.error(said)
    if hasattr(error, 'add_note'):  # Since Python 3.11.
        error.add_note(said)
