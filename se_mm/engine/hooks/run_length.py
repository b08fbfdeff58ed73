# SPDX-License-Identifier: Apache-2.0
"""When a run makes updates: how many of them, from where on, and after which iterations."""

from __future__ import annotations

import math
from typing import Any, Optional

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from se_mm.smoothing import OptionError, Settings
from se_mm.teachers import Mover


def check_begin(settings: Settings, max_iters: Optional[int], max_epochs: Optional[int]) -> None:
    """Raise OptionError if a run of this length, where known, does not reach the smoothing."""
    if max_iters is not None and settings.begin_iter >= max_iters:
        raise OptionError(
            f'begin_iter must be < {max_iters}, the iterations of the run, got '
            f'{settings.begin_iter}'
        )
    if max_epochs is not None and settings.begin_epoch > max_epochs:
        raise OptionError(
            f'begin_epoch must be <= {max_epochs}, the epochs of the run, got '
            f'{settings.begin_epoch}'
        )


def check_interval(mover: Mover, updates: int) -> None:
    """Raise OptionError if a run with so many opportunities does not reach a second update."""
    if mover.interval > updates:
        raise OptionError(
            f'interval must be <= {updates}, the opportunities for an update in the run, got '
            f'{mover.interval}'
        )


def count_updates(mover: Mover, max_iters: int, max_epochs: int, accumulated: int) -> int:
    """Opportunities for an update between the begin of the smoothing and the end of a run.

    ``accumulated`` iterations make a step of the optimizer.
    """
    settings = mover.ensemble.settings
    begin = settings.begin_iter
    if settings.begin_epoch:
        begin = (settings.begin_epoch - 1) * (max_iters // max_epochs)
    each = 1 if settings.every_iter else accumulated
    updates = max(1, math.ceil((max_iters - begin) / each))
    return updates + (mover.teacher.taught_from_start and begin == 0)


def updates_of(runner: Runner, mover: Mover) -> int:
    """The same for a run that has been built."""
    counts = [getattr(o, '_accumulative_counts', 1) for o in optim_wrappers(runner)]
    return count_updates(mover, runner.max_iters, runner.max_epochs, min(counts))


def begun(runner: Runner, settings: Settings, student_updates: int) -> bool:
    """Whether smoothing has begun, after so many iterations that the student was trained for."""
    if settings.begin_epoch:
        return bool(runner.epoch + 1 >= settings.begin_epoch)
    return student_updates >= settings.begin_iter


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """The optimizer wrappers of a run."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if hasattr(wrapper, 'optim_wrappers') else [wrapper]


class OptimizerSteps:
    """Whether any optimizer of a run has made a step at the end of an iteration.

    Under gradient accumulation most iterations make none, and a loss scaler leaves out those whose
    gradients overflow: the optimizer itself is asked about these. ``made`` is whether to take a
    step as made before the first iteration.
    """

    def __init__(self, runner: Runner, made: bool) -> None:
        self._wrappers = optim_wrappers(runner)
        self._made = made
        self._hooked: dict[int, Any] = {}
        for wrapper in self._wrappers:
            self._may_skip(wrapper)

    def due(self) -> bool:
        """Whether a step was made since this was last asked."""
        reached = [wrapper for wrapper in self._wrappers if wrapper.should_update()]
        if not all(self._may_skip(wrapper) for wrapper in reached):
            return True
        made, self._made = bool(reached) and self._made, self._made and not reached
        return made

    def _may_skip(self, wrapper: OptimWrapper) -> bool:
        """Whether a loss scaler may leave out a wrapper's steps; its optimizer is then hooked."""
        if getattr(wrapper, 'loss_scaler', None) is None:
            return False
        if self._hooked.get(id(wrapper)) is not wrapper.optimizer:
            wrapper.optimizer.register_step_post_hook(self._step_made)
            self._hooked[id(wrapper)] = wrapper.optimizer
        return True

    def _step_made(self, *_: object) -> None:
        self._made = True
