# SPDX-License-Identifier: Apache-2.0
"""The hook that shows in a run's visualizer what its teacher is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from se_mm.engine.hooks.spatial_ensemble_hook import SpatialEnsembleHook
from se_mm.history.provenance import provenance
from se_mm.history.segments import read_history
from se_mm.smoothing.options import OptionError, check_count, check_flag


@HOOKS.register_module()
class TeacherHistoryHook(Hook):
    """Adds the plot of ``tools/teacher_history.py`` to all backends of the run's visualizer.

    Args:
        interval: Epochs, or iterations, from one plot to the next, at least 1.
        by_epoch: Whether they are epochs.
    """

    # After the teacher was updated, and before a checkpoint is written.
    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 1, by_epoch: bool = True) -> None:
        self.interval = check_count('interval', interval, 1)
        self.by_epoch = check_flag('by_epoch', by_epoch)

    def before_train(self, runner: Runner) -> None:
        """Find the hook that updates the teacher. Called before the first iteration."""
        found = [hook for hook in runner.hooks if isinstance(hook, SpatialEnsembleHook)]
        if not found:
            raise OptionError('TeacherHistoryHook needs a SETMAHook or SpatialEnsembleHook')
        self._hook = found[0]

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Plot every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._plot(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Plot every ``interval`` epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._plot(runner, runner.iter)

    @master_only
    def _plot(self, runner: Runner, step: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        from se_mm.history.picture import draw_history

        updater = self._hook.updater
        updates = updater.ensemble.step
        if updates:
            segments = read_history(updater.history.segments, updates)
            title = f'{segments[-1].rules[0].rule}, after {updates:,} updates'
            figure = draw_history(provenance(segments, updates), title)
            figure.set_dpi(80)
            canvas: Any = FigureCanvasAgg(figure)
            canvas.draw()
            image = np.array(canvas.buffer_rgba())[..., :3]
            runner.visualizer.add_image('teacher_history', image, step=step)
