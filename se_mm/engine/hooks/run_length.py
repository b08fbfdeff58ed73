# SPDX-License-Identifier: Apache-2.0
"""How many updates a run makes, and whether it reaches those that the options speak of."""

from __future__ import annotations

import math
from typing import Optional

from mmengine.runner import Runner

from se_mm.engine.hooks.steps import optim_wrappers
from se_mm.smoothing import OptionError, Settings
from se_mm.teachers import Mover


def check_begin(settings: Settings, max_iters: Optional[int], max_epochs: Optional[int]) -> None:
    """Check that the run reaches the begin of the smoothing.

    Args:
        settings: The options.
        max_iters: Iterations of the run. None: not known yet.
        max_epochs: Its epochs. None: it has none.

    Raises:
        OptionError: If it does not.
    """
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
    """Check that the run reaches a second update.

    Args:
        mover: What moves the teacher.
        updates: Opportunities for an update in the run.

    Raises:
        OptionError: If the teacher would stay as the first of them left it.
    """
    if mover.interval > updates:
        raise OptionError(
            f'interval must be <= {updates}, the opportunities for an update in the run, got '
            f'{mover.interval}'
        )


def count_updates(mover: Mover, max_iters: int, max_epochs: int, accumulated: int) -> int:
    """Opportunities for an update between the begin of the smoothing and the end of a run.

    Args:
        mover: What moves the teacher.
        max_iters: Iterations of the run.
        max_epochs: Its epochs, at least 1.
        accumulated: Iterations from one optimizer step to the next.
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
    """Whether smoothing has begun.

    Args:
        runner: The runner of the run.
        settings: The options.
        student_updates: Iterations that the student has been trained for.
    """
    if settings.begin_epoch:
        return bool(runner.epoch + 1 >= settings.begin_epoch)
    return student_updates >= settings.begin_iter
