# SPDX-License-Identifier: Apache-2.0
"""When a run updates its teacher: how often, from when on, and after which iterations."""

from __future__ import annotations

import math
from typing import Any, Optional

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from se_mm.smoothing import OptionError, Settings
from se_mm.teachers import Updater


def check_begin(settings: Settings, max_iters: Optional[int], max_epochs: Optional[int]) -> None:
    """Raise OptionError if the smoothing does not begin in a run of this length, if known."""
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


def count_updates(updater: Updater, max_iters: int, max_epochs: int, accumulated: int) -> int:
    """Opportunities for an update from the begin of the smoothing to the end of a run.

    The optimizer steps every ``accumulated`` iterations. Raises OptionError if the interval is so
    long that there is no second update.
    """
    settings = updater.ensemble.settings
    begin = settings.begin_iter
    if settings.begin_epoch:
        begin = (settings.begin_epoch - 1) * (max_iters // max_epochs)
    each = 1 if settings.every_iter else accumulated
    updates = max(1, math.ceil((max_iters - begin) / each))
    updates += updater.teacher.averaged is None and begin == 0  # One before the first iteration.
    if updater.interval > updates:
        raise OptionError(
            f'interval must be <= {updates}, the opportunities for an update in the run, got '
            f'{updater.interval}'
        )
    return updates


def updates_of(runner: Runner, updater: Updater) -> int:
    """:func:`count_updates` for a run that was built."""
    counts = [getattr(o, '_accumulative_counts', 1) for o in optim_wrappers(runner)]
    return count_updates(updater, runner.max_iters, runner.max_epochs, min(counts))


def begun(runner: Runner, settings: Settings, student_updates: int) -> bool:
    """Whether smoothing has begun, after the student was trained for some iterations."""
    if settings.begin_epoch:
        return bool(runner.epoch + 1 >= settings.begin_epoch)
    return student_updates >= settings.begin_iter


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """The optimizer wrappers of a run."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if hasattr(wrapper, 'optim_wrappers') else [wrapper]


class OptimizerSteps:
    """Whether any optimizer of a run has made a step.

    Under gradient accumulation most iterations make none, and a loss scaler skips steps with
    infinite gradients, which a hook of the optimizer notices. ``made`` is whether to assume a step
    before the first iteration.
    """

    def __init__(self, runner: Runner, made: bool) -> None:
        self._wrappers = optim_wrappers(runner)
        self._made = made
        self._hooked: dict[int, Any] = {}
        for wrapper in self._wrappers:
            self._may_skip(wrapper)

    def due(self) -> bool:
        """Whether a step was made since the last call."""
        reached = [wrapper for wrapper in self._wrappers if wrapper.should_update()]
        if not reached:
            return False
        if not all(self._may_skip(wrapper) for wrapper in reached):
            return True
        made, self._made = self._made, False
        return made

    def _may_skip(self, wrapper: OptimWrapper) -> bool:
        """Whether a loss scaler may skip steps; the optimizer is then hooked."""
        if getattr(wrapper, 'loss_scaler', None) is None:
            return False
        if self._hooked.get(id(wrapper)) is not wrapper.optimizer:
            wrapper.optimizer.register_step_post_hook(self._step_made)
            self._hooked[id(wrapper)] = wrapper.optimizer
        return True

    def _step_made(self, *_: object) -> None:
        self._made = True
