# SPDX-License-Identifier: Apache-2.0
"""A Runner whose runs go on exactly where they were stopped."""

from __future__ import annotations

from typing import Any, Optional, Union

import torch
from mmengine.dist import gather_object, get_rank, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, LOOPS, RUNNERS
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from se_mm.engine.checkpoints import (
    CONTENTS_KEY,
    contents,
    guard_checkpoints,
    newest_whole,
    read_training_checkpoint,
    remove_leftovers,
)
from se_mm.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook
from se_mm.engine.keyed_data import KeyedBatches, Skipping, key_dataloader, remembers
from se_mm.rng import seed_all
from se_mm.smoothing.options import OptionError

RANKS_KEY = 'ranks'
"""The key of what each rank of the run has for itself."""
_ITERATION = 3  # What a seed is for: see keyed_data.


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """A Runner whose runs go on exactly where they were stopped.

    MMEngine's own goes on with the right weights, but with other random numbers. Here

    - what is drawn in an iteration, in the data as in the model, is a function of the seed and of
      the iteration, so there is no state to be lost, and nothing is read again;
    - a checkpoint has what each rank has for itself: between two optimizer steps the gradients
      accumulated so far, and the statistics of a batch norm that is not synchronised;
    - checkpoints are written whole or not at all, and an older one is removed only when the newer
      is there;
    - a resume refuses a checkpoint that is damaged or of another model, and one without a name
      takes the newest that is whole.

    Example:
        >>> runner_type = 'ResumableRunner'  # tools/train.py has it without asking
    """

    _building_for_training = False
    _by_iterations = False
    _resuming = False
    _epoch_to_go_on, _iter_to_go_on = 0, 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        guard_checkpoints()
        super().__init__(*args, **kwargs)

    def register_hook(self, hook: Union[Hook, dict], priority: Any = None) -> None:
        """Register a hook; MMEngine's ``CheckpointHook`` gives way to one that removes last."""
        kind = hook.get('type') if isinstance(hook, dict) else None
        if kind is CheckpointHook or (isinstance(kind, str) and HOOKS.get(kind) is CheckpointHook):
            hook = {**hook, 'type': SafeCheckpointHook}
        super().register_hook(hook, priority)

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        """Register the hooks of the config, and what this runner needs around them."""
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(_SeedHook())
        self.register_hook(_ContentsHook())

    def train(self) -> nn.Module:
        """Train, from the checkpoint on if there is one to go on from."""
        if self._resume and not self._has_loaded:
            self._find_checkpoint()
        if is_main_process():
            remove_leftovers(self.work_dir)
        return super().train()

    def build_train_loop(self, loop: Union[BaseLoop, dict]) -> BaseLoop:
        """Build the loop with a dataloader that begins where the run goes on."""
        self._building_for_training = True
        if isinstance(loop, dict):
            kind = loop.get('type')
            kind = LOOPS.get(kind) if isinstance(kind, str) else kind
            self._by_iterations = (
                issubclass(kind, IterBasedTrainLoop) if kind else not loop.get('by_epoch', True)
            )
        try:
            return super().build_train_loop(loop)
        finally:
            self._building_for_training = False

    def build_dataloader(
        self, dataloader: Any, seed: Optional[int] = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a dataloader, for training one that draws the same at the same place."""
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        if self._building_for_training and loader is not dataloader:
            epoch = self._epoch_to_go_on
            skipped = self._iter_to_go_on - epoch * len(loader)
            if epoch and not 0 <= skipped <= len(loader):
                skipped = 0  # Another number of ranks, or another batch size.
            if remembers(loader.dataset):
                if self._by_iterations:
                    skipped = 0  # All has to be read again, as MMEngine does it.
                elif skipped or (epoch and (loader.persistent_workers or not loader.num_workers)):
                    self.logger.warning(
                        'The pipeline of the training data keeps images of earlier iterations, '
                        'which no checkpoint has: the resumed run is not quite the same.'
                    )
            key_dataloader(loader, self.seed, get_rank(), epoch, skipped)
        return loader

    def resume(self, *args: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint, whose model must be this one.

        Raises:
            OptionError: If it is another.
        """
        self._resuming = True
        try:
            super().resume(*args, **kwargs)
        finally:
            self._resuming = False

    def load_checkpoint(
        self, filename: str, map_location: Any = 'cpu', strict: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Load a checkpoint; to go on from it, all of its model must fit.

        Raises:
            OptionError: If it is resumed and does not fit.
        """
        if not self._resuming:
            return super().load_checkpoint(filename, map_location, strict, **options)
        try:
            checkpoint = super().load_checkpoint(filename, map_location, True, **options)
        except RuntimeError as error:
            reason = ' '.join(str(error).split())
            raise OptionError(f'--resume={filename!r} is not of this model: {reason}') from error
        # MMEngine would run the text of an old config as Python.
        checkpoint['meta'].pop('config', None)
        self._restore_ranks(checkpoint.get(RANKS_KEY))
        return checkpoint

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, on rank 0. Called on all ranks."""
        self.of_ranks = self._gather_ranks()
        super().save_checkpoint(*args, **kwargs)
        self.of_ranks = None

    def _find_checkpoint(self) -> None:
        """Find what to go on from, and take its seed before anything is drawn."""
        if self._load_from is None:
            path, reasons = newest_whole(self.work_dir)
            for reason in reasons:
                self.logger.warning(f'{reason} An older checkpoint is taken.')
            if path is None:
                self.logger.warning(
                    f'There is no checkpoint in {self.work_dir}: the run starts at its beginning.'
                )
                self._resume = False
                return
            self._load_from = str(path)
        remote = '://' in self._load_from
        read = CheckpointLoader.load_checkpoint if remote else read_training_checkpoint
        meta = read(self._load_from, 'cpu')['meta']
        self._epoch_to_go_on, self._iter_to_go_on = meta['epoch'], meta['iter']
        seed, configured = meta.get('seed'), self._randomness_cfg.get('seed')
        if seed is not None and seed != self.seed:
            if configured is not None:
                self.logger.warning(
                    f'randomness.seed={configured} is not that of the checkpoint: the run goes on '
                    f'with {seed}.'
                )
            self._randomness_cfg.update(seed=seed)
            self.set_randomness(**self._randomness_cfg)

    def _gather_ranks(self) -> Optional[list[dict[str, dict[str, Tensor]]]]:
        """What each rank has for itself; on rank 0, None where nobody has anything."""
        gradients: dict[str, Tensor] = {}
        wrapper = self.optim_wrapper
        wrappers = wrapper.values() if hasattr(wrapper, 'optim_wrappers') else [wrapper]
        if not all(each.should_update() for each in wrappers):
            gradients = {
                name: parameter.grad.cpu()
                for name, parameter in _plain(self.model).named_parameters()
                if parameter.grad is not None
            }
        buffers = {name: value.cpu() for name, value in self._buffers().items()}
        ranks = gather_object({'gradients': gradients, 'buffers': buffers}, dst=0)
        if not is_main_process():
            return None
        for own in ranks:
            own['buffers'] = {
                name: value
                for name, value in own['buffers'].items()
                if not torch.equal(value, buffers[name])
            }
        return ranks if any(own[key] for own in ranks for key in own) else None

    def _restore_ranks(self, ranks: Optional[list[dict[str, dict[str, Tensor]]]]) -> None:
        """Set what this rank had for itself when the checkpoint was written."""
        if not ranks or get_rank() >= len(ranks):
            return
        own = ranks[get_rank()]
        parameters = dict(_plain(self.model).named_parameters())
        for name, gradient in own['gradients'].items():
            parameters[name].grad = gradient.to(parameters[name])
        buffers = self._buffers()
        for name, value in own['buffers'].items():
            buffers[name].copy_(value)

    def _buffers(self) -> dict[str, Tensor]:
        """The buffers of the model, and of a teacher beside it."""
        buffers = dict(_plain(self.model).named_buffers())
        for hook in self.hooks:
            outside = getattr(getattr(hook, 'teacher', None), 'outside', None)
            if outside is not None:
                buffers |= {f'teacher.{name}': b for name, b in outside.named_buffers()}
        return buffers


class _SeedHook(Hook):
    """Makes what an iteration draws a function of the seed and the iteration."""

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Go on with the next batch at once. Called before MMEngine reads the earlier ones."""
        loop = runner.train_loop
        keyed = isinstance(loop.dataloader.batch_sampler, KeyedBatches)
        again = remembers(loop.dataloader.dataset)
        if keyed and loop.iter and not again and hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = Skipping(loop.dataloader_iterator, loop.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed all generators. Called when the batch is there."""
        # The same on all ranks unless asked otherwise, as MMEngine does it: some models choose
        # their way by chance, and all ranks must choose alike.
        rank = get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0
        seed_all((runner.seed, rank, _ITERATION, runner.iter))
        if torch.cuda.is_available():
            torch.cuda.manual_seed(torch.initial_seed())


class _ContentsHook(Hook):
    """Lists in a checkpoint what is in it. The last to touch it."""

    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: ResumableRunner, checkpoint: dict) -> None:
        """Add the list, and what each rank has for itself."""
        if runner.of_ranks is not None:
            checkpoint[RANKS_KEY] = runner.of_ranks
        checkpoint['meta'][CONTENTS_KEY] = contents(checkpoint)


def _plain(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
