# SPDX-License-Identifier: Apache-2.0
"""Evaluate a shadow in place of the model, and the student too for ``evaluate_on='both'``."""

from __future__ import annotations

from typing import Optional

from mmengine.runner import Runner

from se_mm.engine.hooks.recalibrate import recalibrate
from se_mm.rng import rng_untouched
from se_mm.smoothing.settings import RECALIBRATE
from se_mm.teachers import Shadow, Updater


def begin_evaluation(updater: Updater, runner: Runner) -> None:
    """Recalibrate the teacher and swap a shadow into the model, unless the student is evaluated."""
    settings = updater.ensemble.settings
    if settings.evaluate_on == 'student':
        return
    if settings.buffers == RECALIBRATE:
        recalibrate(updater, runner)
    # Before the first update the model itself is the teacher.
    if isinstance(updater.teacher, Shadow) and updater.started:
        updater.teacher.swap(updater)


def end_evaluation(
    updater: Updater, runner: Runner, stage: str, metrics: Optional[dict[str, float]]
) -> None:
    """Swap a shadow back. Then evaluate the student, if ``evaluate_on`` is ``'both'``.

    ``stage`` is ``'val'`` or ``'test'``. The student's metrics are added to the teacher's.
    """
    if not isinstance(updater.teacher, Shadow):
        return
    updater.teacher.swap_back()
    # A loop that does not evaluate batch by batch evaluates teacher and student itself.
    loop = runner.val_loop if stage == 'val' else runner.test_loop
    if updater.ensemble.settings.evaluate_on == 'both' and hasattr(loop, 'run_iter'):
        found = evaluate_once_more(runner, stage)
        add_metrics(runner, stage, metrics, {f'{k}_origin': v for k, v in found.items()})


def evaluate_once_more(runner: Runner, stage: str) -> dict[str, float]:
    """Evaluate the model again after a loop that evaluates batch by batch.

    Random generators are not changed.
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
    """Log more metrics, and add them to the loop's."""
    for name, value in found.items():
        runner.message_hub.update_scalar(f'{stage}/{name}', value)
    if metrics is not None:
        metrics.update(found)
