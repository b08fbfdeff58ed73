# SPDX-License-Identifier: Apache-2.0
"""Models registered with MMEngine."""

from se_mm.models.averaged_models import (
    SmoothedModel,
    SpatialEnsemble,
    SpatialTemporalSmoothing,
)
from se_mm.models.conv_net import ConvNet
from se_mm.models.linear_bn_head import linear_bn_head

__all__ = [
    'ConvNet',
    'SmoothedModel',
    'SpatialEnsemble',
    'SpatialTemporalSmoothing',
    'linear_bn_head',
]
