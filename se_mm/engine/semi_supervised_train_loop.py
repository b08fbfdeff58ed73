# SPDX-License-Identifier: Apache-2.0
"""Training on labelled and unlabelled images, which goes on exactly where it was stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from se_mm.datasets import LabelSplit, MultiSourceBatchSampler, SemiSupervisedDataset
from se_mm.datasets.class_checks import check_outputs
from se_mm.engine.hooks import SpatialEnsembleHook
from se_mm.engine.keyed_data import Skipping
from se_mm.engine.teachers import Pair
from se_mm.smoothing.options import OptionError

SPLIT_FILE = 'split.json'
"""Where in its work dir a run leaves which images are labelled."""


@LOOPS.register_module()
class SemiSupervisedTrainLoop(IterBasedTrainLoop):
    """mmengine's training by iterations, for a ``SemiSupervisedDataset``.

    It refuses a run that cannot come to anything, leaves the split in the work dir, and a resumed
    run goes on with the next batch at once: mmengine's own loop reads all earlier ones again.

    Args:
        runner: The runner.
        dataloader: The training images.
        max_iters: Iterations of the whole run.
        **options: Those of :class:`mmengine.runner.IterBasedTrainLoop`.

    Raises:
        OptionError: If data, model and hooks do not fit each other.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, max_iters: int, **options: Any
    ) -> None:
        super().__init__(runner, dataloader, max_iters, **options)
        self._check()

    def run(self) -> Any:
        """Train, from the iteration on that the runner stands at."""
        self._keep_split()
        if self._iter:
            self.dataloader_iterator = Skipping(self._batches_from(self._iter), self._iter)
        return super().run()

    def _batches_from(self, step: int) -> Iterator[Any]:
        """The batches of the training from a step on."""
        sampler: MultiSourceBatchSampler = self.dataloader.batch_sampler
        sampler.step = step
        # A checkpoint brings its seed along, after the sampler was made.
        sampler.seed = sampler.seed if self.runner.seed is None else int(self.runner.seed)
        yield from self.dataloader

    def _check(self) -> None:
        """Refuse what would fail or mislead during the run."""
        dataset, sampler = self.dataloader.dataset, self.dataloader.batch_sampler
        for key, value, kind in (
            ('dataset', dataset, SemiSupervisedDataset),
            ('batch_sampler', sampler, MultiSourceBatchSampler),
        ):
            if not isinstance(value, kind):
                raise OptionError(
                    f'train_dataloader.{key}={type(value).__name__!r} is not allowed with a '
                    f'SemiSupervisedTrainLoop: {kind.__name__!r}.'
                )
        model = self.runner.model
        model = model.module if is_model_wrapper(model) else model
        name = type(model).__name__
        labeller = getattr(model, 'labeller', None)
        if labeller and len(dataset.source_sizes) == 1:
            raise OptionError(
                f'train_dataloader.dataset.unlabelled=False is not allowed with {name}, which '
                f'learns from unlabelled images; SupervisedOnly does not.'
            )
        head = getattr(getattr(model, 'student', None), 'head', None)
        check_outputs(
            'model.classifier.head.num_classes',
            getattr(head, 'num_classes', None),
            dataset.metainfo['classes'],
            'train_dataloader.dataset.labelled',
        )
        # A stock MeanTeacherHook is told by its method, since mmdet need not be installed.
        moved = any(
            isinstance(hook, SpatialEnsembleHook) or hasattr(hook, 'momentum_update')
            for hook in self.runner.hooks
        )
        if Pair.candidates(model) and not moved:
            raise OptionError(
                f'custom_hooks has no hook that moves the teacher of {name}: add '
                f"dict(type='SETMAHook'), or, for a teacher equal to the student, "
                f"dict(type='SpatialEnsembleHook', keep_prob=0)."
            )

    def _keep_split(self) -> None:
        """Write the split into the work dir, or make sure that it is the one there."""
        split = self.dataloader.dataset.split
        if split is None:
            return
        path = os.path.join(self.runner.work_dir, SPLIT_FILE)
        if self._iter and os.path.exists(path):
            if LabelSplit.load(path).indices != split.indices:
                raise OptionError(
                    f'{path}: the run began with other labelled images than the config says now. '
                    f'Set train_dataloader.dataset.split={path!r} to go on with them.'
                )
        elif is_main_process():
            split.save(path)
        barrier()
