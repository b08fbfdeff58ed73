# SPDX-License-Identifier: Apache-2.0
"""Evaluate a resumed training that has no iterations left."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner


class FinalEvaluationHook(Hook):
    """Evaluates after the training, unless the training has just done so.

    MMEngine saves the last checkpoint before the last evaluation: a training that was killed in
    between has nothing left to train when it is resumed, and would end without an evaluation.
    """

    evaluated = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note that the model changes. Called before each iteration."""
        self.evaluated = False

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Note the evaluation. Called after each one."""
        self.evaluated = True

    def after_train(self, runner: Runner) -> None:
        """Evaluate if necessary. Called after the last iteration."""
        if runner.val_loop is not None and not self.evaluated:
            runner.val_loop.run()
