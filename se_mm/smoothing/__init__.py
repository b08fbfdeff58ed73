# SPDX-License-Identifier: Apache-2.0
"""The method, in pure PyTorch: Spatial Ensemble and Spatial-Temporal Smoothing.

Huang, Sun, Wang, Yao, Zhang: *Spatial Ensemble: a Novel Model Smoothing Mechanism for
Student-Teacher Framework*, NeurIPS 2021 (https://arxiv.org/abs/2110.01253).

Names become :mod:`units`, a seed and a step :mod:`picks`, a step :mod:`schedules`' numbers, and all
of them an :mod:`update`; a :class:`Smoother` holds them together. Nothing here knows OpenMMLab.
"""

from se_mm.smoothing.options import OptionError
from se_mm.smoothing.rules import Rule, Rules, build_rules
from se_mm.smoothing.schedules import Schedule, keep_prob_schedule, momentum_schedule
from se_mm.smoothing.smoother import BUFFER_POLICIES, Smoother
from se_mm.smoothing.units import GRANULARITIES, Pair, Units, pair_modules, pair_tensors
from se_mm.smoothing.update import draw_picks, update

__all__ = [
    'BUFFER_POLICIES',
    'GRANULARITIES',
    'OptionError',
    'Pair',
    'Rule',
    'Rules',
    'Schedule',
    'Smoother',
    'Units',
    'build_rules',
    'draw_picks',
    'keep_prob_schedule',
    'momentum_schedule',
    'pair_modules',
    'pair_tensors',
    'update',
]
