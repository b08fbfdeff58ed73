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
    """Let a shadow and its student change places, unless the student is to be evaluated."""
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

    ``stage`` is ``'val'`` or ``'test'``. The student's metrics are added to the teacher's.
    """
    if not isinstance(mover.teacher, Shadow):
        return
    mover.teacher.swap_back()
    # A loop that does not go batch by batch asks teacher and student itself.
    loop = runner.val_loop if stage == 'val' else runner.test_loop
    if mover.ensemble.settings.evaluate_on == 'both' and hasattr(loop, 'run_iter'):
        found = evaluate_once_more(runner, stage)
        add_metrics(runner, stage, metrics, {f'{k}_origin': v for k, v in found.items()})


def evaluate_once_more(runner: Runner, stage: str) -> dict[str, float]:
    """Evaluate the model as it is now, after a loop has, which must go batch by batch.

    Random generators stay as they are.
    """
    loop = runner.val_loop if stage == 'val' else runner.test_loop
    with rng_untouched():
        runner.model.eval()
        for index, batch in enumerate(loop.dataloader):
            loop.run_iter(index, batch)
        found: dict[str, float] = loop.evaluator.evaluate(len(loop.dataloader.dataset))
    return found


def add_metrics(
    runner: Runner, stage: str, metrics: Optional[dict[str, float]], found: dict[str, float]
) -> None:
    """Log more metrics, and add them to those that a loop has computed."""
    for name, value in found.items():
        runner.message_hub.update_scalar(f'{stage}/{name}', value)
    if metrics is not None:
        metrics.update(found)
