# SPDX-License-Identifier: Apache-2.0
"""What joins the method to OpenMMLab: hooks, kinds of teacher, and runs that can be resumed."""

from se_mm.engine.hooks import (
    BurnInHook,
    ChannelsLastHook,
    PseudoLabelHook,
    SETMAHook,
    ShadowsHook,
    SpatialEnsembleHook,
    TeacherHistoryHook,
)
from se_mm.engine.runner import ResumableRunner, SemiSupervisedTrainLoop

__all__ = [
    'BurnInHook',
    'ChannelsLastHook',
    'PseudoLabelHook',
    'ResumableRunner',
    'SETMAHook',
    'SemiSupervisedTrainLoop',
    'ShadowsHook',
    'SpatialEnsembleHook',
    'TeacherHistoryHook',
]
