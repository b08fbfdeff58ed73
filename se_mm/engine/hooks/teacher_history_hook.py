# SPDX-License-Identifier: Apache-2.0
"""The hook that shows in a run's visualizer what its teacher is made of."""

from __future__ import annotations

import io
from typing import Any, Optional

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from se_mm.engine.hooks.spatial_ensemble_hook import SpatialEnsembleHook
from se_mm.history.provenance import effective_size, law, provenance
from se_mm.history.segments import read_history
from se_mm.smoothing.options import OptionError, check_count, check_flag


@HOOKS.register_module()
class TeacherHistoryHook(Hook):
    """Adds the picture of ``tools/teacher_history.py`` to the run's visualizer every so often.

    Every backend of it gets the picture ``teacher_history``, on rank 0 alone.

    Example:
        >>> custom_hooks = [
        ...     dict(type='SETMAHook', keep_prob=0.7),
        ...     dict(type='TeacherHistoryHook', interval=10),
        ... ]

    Args:
        interval: Epochs, or iterations, from one picture to the next, at least 1.
        by_epoch: Whether they are epochs.

    Raises:
        OptionError: If the interval is out of its range, or no hook of ours moves a teacher.
    """

    # After the teacher was updated, and before a checkpoint is written.
    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 1, by_epoch: bool = True) -> None:
        self.interval = check_count('interval', interval, 1)
        self.by_epoch = check_flag('by_epoch', by_epoch)

    def before_train(self, runner: Runner) -> None:
        """Find the hook that moves the teacher. Called before the first iteration."""
        found = [hook for hook in runner.hooks if isinstance(hook, SpatialEnsembleHook)]
        if not found:
            raise OptionError(
                'TeacherHistoryHook needs a hook that moves a teacher by se_mm: SETMAHook or '
                'SpatialEnsembleHook.'
            )
        self._hook = found[0]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Draw, every so many iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._draw(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw, every so many epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._draw(runner, runner.iter)

    @master_only
    def _draw(self, runner: Runner, step: int) -> None:
        from matplotlib import pyplot as plt
        from PIL import Image

        from se_mm.history.picture import draw_history

        mover = self._hook.mover
        updates, saved = mover.ensemble.step, mover.history.segments
        if not updates:
            return
        segments = read_history(saved, updates)
        found, expected = provenance(segments, updates), law(segments, updates)
        rule = segments[-1].rules[0].rule
        figure = draw_history(found, expected, f'{rule}, after {updates:,} updates')
        picture = io.BytesIO()
        figure.savefig(picture, format='png', dpi=80)
        plt.close(figure)
        image = np.asarray(Image.open(picture).convert('RGB'))
        runner.visualizer.add_image('teacher_history', image, step=step)
        if not np.isnan(found.mean_age):
            runner.logger.info(
                f'TeacherHistoryHook: mean age {found.mean_age:,.1f} updates (expected '
                f'{expected.mean_age:,.1f}), effective ensemble size {found.effective_size:,.1f} '
                f'students (expected {effective_size(expected.share):,.1f}).'
            )
