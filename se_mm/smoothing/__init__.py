# SPDX-License-Identifier: Apache-2.0
"""The method in pure PyTorch: Spatial Ensemble (SE) and Spatial-Temporal Smoothing (STS).

Huang, Sun, Wang, Yao, Zhang: *Spatial Ensemble: a Novel Model Smoothing Mechanism for
Student-Teacher Framework*, NeurIPS 2021 (https://arxiv.org/abs/2110.01253).

:class:`SpatialEnsemble` is the teacher for any PyTorch loop. Behind it, :class:`Settings` has all
options, ``tensors`` finds tensors by name, ``units`` and ``picks`` decide what an update changes,
``update`` is the reference implementation, and ``kernels`` are fast ones. Nothing here imports
OpenMMLab.
"""

from se_mm.smoothing.ensemble import SpatialEnsemble
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.schedules import Schedule, keep_prob_schedule, momentum_schedule
from se_mm.smoothing.settings import BUFFERS, GRANULARITIES, Average, Rule, Settings
from se_mm.smoothing.smoother import Smoother, TeacherFault

__all__ = [
    'BUFFERS',
    'GRANULARITIES',
    'Average',
    'OptionError',
    'Rule',
    'Schedule',
    'Settings',
    'Smoother',
    'SpatialEnsemble',
    'TeacherFault',
    'keep_prob_schedule',
    'momentum_schedule',
]
