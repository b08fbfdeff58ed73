# SPDX-License-Identifier: Apache-2.0
"""What joins the method to OpenMMLab: hooks, kinds of teacher, and the loading of checkpoints."""

from se_mm.engine.hooks import SETMAHook, SpatialEnsembleHook

__all__ = ['SETMAHook', 'SpatialEnsembleHook']
