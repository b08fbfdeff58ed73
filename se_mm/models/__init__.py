# SPDX-License-Identifier: Apache-2.0
"""Models registered with MMEngine."""

from se_mm.models import semi_supervised
from se_mm.models.averaged_models import SmoothedModel, SpatialEnsemble, SpatialTemporalSmoothing
from se_mm.models.batch_views import BatchViews, BatchViewsPreprocessor
from se_mm.models.networks import ConvNet, WideResNet, linear_bn_head

__all__ = [
    'BatchViews',
    'BatchViewsPreprocessor',
    'ConvNet',
    'SmoothedModel',
    'SpatialEnsemble',
    'SpatialTemporalSmoothing',
    'WideResNet',
    'linear_bn_head',
    'semi_supervised',
]
