# SPDX-License-Identifier: Apache-2.0
"""Hooks that a config names."""

from se_mm.engine.hooks.burn_in_hook import BurnInHook
from se_mm.engine.hooks.channels_last_hook import ChannelsLastHook
from se_mm.engine.hooks.pseudo_label_hook import PseudoLabelHook
from se_mm.engine.hooks.shadows_hook import ShadowsHook
from se_mm.engine.hooks.spatial_ensemble_hook import SETMAHook, SpatialEnsembleHook
from se_mm.engine.hooks.teacher_history_hook import TeacherHistoryHook

__all__ = [
    'BurnInHook',
    'ChannelsLastHook',
    'PseudoLabelHook',
    'SETMAHook',
    'ShadowsHook',
    'SpatialEnsembleHook',
    'TeacherHistoryHook',
]
