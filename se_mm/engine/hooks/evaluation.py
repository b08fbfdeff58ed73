# SPDX-License-Identifier: Apache-2.0
"""Evaluate a teacher beside the model in the model's place, and the student too if asked to."""

from __future__ import annotations

from typing import Optional

from mmengine.runner import Runner

from se_mm.engine.hooks.recalibrate import recalibrate
from se_mm.rng import rng_untouched
from se_mm.smoothing.settings import RECALIBRATE
from se_mm.teachers import Mover, Shadow


def swapped_in(mover: Mover, runner: Runner) -> None:
    """Let a shadow and its student change places, unless the student is to be evaluated.

    Args:
        mover: What moves the teacher.
        runner: The runner of the run.
    """
    settings = mover.ensemble.settings
    if settings.evaluate_on == 'student':
        return
    if settings.buffers == RECALIBRATE:
        recalibrate(mover, runner)
    # Before the first update the model itself is the teacher.
    if isinstance(mover.teacher, Shadow) and mover.started:
        mover.teacher.swap()


def swapped_back(
    mover: Mover, runner: Runner, stage: str, metrics: Optional[dict[str, float]]
) -> None:
    """Let them change back. The student is evaluated then if ``evaluate_on`` is ``'both'``.

    Args:
        mover: What moves the teacher.
        runner: The runner of the run.
        stage: ``'val'`` or ``'test'``.
        metrics: Those of the teacher, to which the student's are added, as mmpretrain does.
    """
    if not isinstance(mover.teacher, Shadow):
        return
    mover.teacher.swap_back()
    loop = runner.val_loop if stage == 'val' else runner.test_loop
    # A loop that does not go batch by batch asks teacher and student itself.
    if mover.ensemble.settings.evaluate_on != 'both' or not hasattr(loop, 'run_iter'):
        return
    for name, value in evaluate_once_more(runner, stage).items():
        runner.message_hub.update_scalar(f'{stage}/{name}_origin', value)
        if metrics is not None:
            metrics[f'{name}_origin'] = value


def evaluate_once_more(runner: Runner, stage: str) -> dict[str, float]:
    """Evaluate the model as it is now, after a loop has; random generators stay as they are.

    Args:
        runner: The runner of the run.
        stage: ``'val'`` or ``'test'``. The loop must go batch by batch.
    """
    loop = runner.val_loop if stage == 'val' else runner.test_loop
    with rng_untouched():
        runner.model.eval()
        for index, batch in enumerate(loop.dataloader):
            loop.run_iter(index, batch)
        found: dict[str, float] = loop.evaluator.evaluate(len(loop.dataloader.dataset))
    return found
