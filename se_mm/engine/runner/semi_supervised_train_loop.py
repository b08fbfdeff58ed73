# SPDX-License-Identifier: Apache-2.0
"""A train loop for labelled and unlabelled images that checks and keeps the split."""

from __future__ import annotations

import os
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop

from se_mm.datasets import LabelSplit, MultiSourceBatchSampler, SemiSupervisedDataset
from se_mm.datasets.class_checks import check_outputs
from se_mm.engine.hooks import SpatialEnsembleHook
from se_mm.smoothing import OptionError, Settings
from se_mm.teachers import Pair, plain_model

SPLIT_FILE = 'split.json'
"""The file in a work dir that lists the labelled images."""


@LOOPS.register_module()
class SemiSupervisedTrainLoop(IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop`` for a ``SemiSupervisedDataset``.

    It checks that data, model and hooks fit, and writes the split to the work dir. Its arguments
    are those of :class:`mmengine.runner.IterBasedTrainLoop`.

    Raises:
        OptionError: If data, model and hooks do not fit each other.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._check()

    def run(self) -> Any:
        """Train from the current iteration on."""
        self._keep_split()
        return super().run()

    def _check(self) -> None:
        dataset, sampler = self.dataloader.dataset, self.dataloader.batch_sampler
        for key, value, kind in (
            ('dataset', dataset, SemiSupervisedDataset),
            ('batch_sampler', sampler, MultiSourceBatchSampler),
        ):
            if not isinstance(value, kind):
                raise OptionError(
                    f'train_dataloader.{key} must be a {kind.__name__} with a '
                    f'SemiSupervisedTrainLoop, got {type(value).__name__}'
                )
        model = plain_model(self.runner.model)
        name = type(model).__name__
        if getattr(model, 'labeller', None) and len(dataset.source_sizes) == 1:
            raise OptionError(
                f'{name} needs unlabelled images, got train_dataloader.dataset.unlabelled=False; '
                f'use SupervisedOnly without them'
            )
        head = getattr(getattr(model, 'student', None), 'head', None)
        check_outputs(
            'model.classifier.head.num_classes',
            getattr(head, 'num_classes', None),
            dataset.metainfo['classes'],
            'train_dataloader.dataset.labelled',
        )
        # A stock MeanTeacherHook is recognised by its method, since mmdet need not be installed.
        updated = any(
            isinstance(hook, SpatialEnsembleHook) or hasattr(hook, 'momentum_update')
            for hook in self.runner.hooks
        )
        if Pair.candidates(model, Settings()) and not updated:
            raise OptionError(
                f'custom_hooks must have a hook that updates the teacher of {name}: add '
                f"dict(type='SETMAHook'), or, for a teacher equal to the student, "
                f"dict(type='SpatialEnsembleHook', keep_prob=0)"
            )

    def _keep_split(self) -> None:
        """Write the split to the work dir; when resuming, compare it with the one there."""
        split = self.dataloader.dataset.split
        if split is None:
            return
        path = os.path.join(self.runner.work_dir, SPLIT_FILE)
        if self._iter and os.path.exists(path):
            if LabelSplit.load(path).indices != split.indices:
                raise OptionError(
                    f'the labelled images must stay those of {path!r} when a run is resumed; set '
                    f'train_dataloader.dataset.split={path!r}'
                )
        elif is_main_process():
            split.save(path)
        barrier()
