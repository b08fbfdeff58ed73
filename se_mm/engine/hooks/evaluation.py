# SPDX-License-Identifier: Apache-2.0
"""Evaluate the student beside a teacher that was evaluated in its place."""

from __future__ import annotations

from typing import Optional

from mmengine.runner import Runner


def evaluate_student(runner: Runner, stage: str, metrics: Optional[dict[str, float]]) -> None:
    """Run a loop's evaluation once more, and add metrics that end in ``_origin``, as mmpretrain.

    Args:
        runner: The runner of the run, whose model has the student's values now.
        stage: ``'val'`` or ``'test'``.
        metrics: Those of the teacher, to which the student's are added.
    """
    loop = runner.val_loop if stage == 'val' else runner.test_loop
    if not hasattr(loop, 'run_iter'):
        return  # A loop that does not go batch by batch asks teacher and student itself.
    runner.model.eval()
    for index, batch in enumerate(loop.dataloader):
        loop.run_iter(index, batch)
    for name, value in loop.evaluator.evaluate(len(loop.dataloader.dataset)).items():
        runner.message_hub.update_scalar(f'{stage}/{name}_origin', value)
        if metrics is not None:
            metrics[f'{name}_origin'] = value
