# SPDX-License-Identifier: Apache-2.0
"""What joins the method to OpenMMLab: hooks, kinds of teacher, and runs that can be resumed."""

from se_mm.engine.hooks import (
    BurnInHook,
    PseudoLabelHook,
    SETMAHook,
    SpatialEnsembleHook,
    TeacherHistoryHook,
)
from se_mm.engine.runner import ResumableRunner, SemiSupervisedTrainLoop

__all__ = [
    'BurnInHook',
    'PseudoLabelHook',
    'ResumableRunner',
    'SETMAHook',
    'SemiSupervisedTrainLoop',
    'SpatialEnsembleHook',
    'TeacherHistoryHook',
]
