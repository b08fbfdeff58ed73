# SPDX-License-Identifier: Apache-2.0
"""Runs that resume exactly: the runner, its loops and its data."""

from se_mm.engine.runner.resumable_runner import ResumableRunner
from se_mm.engine.runner.semi_supervised_train_loop import SemiSupervisedTrainLoop

__all__ = ['ResumableRunner', 'SemiSupervisedTrainLoop']
