# SPDX-License-Identifier: Apache-2.0
"""Models registered with MMEngine."""

from se_mm.models.averaged_models import (
    SmoothedModel,
    SpatialEnsemble,
    SpatialTemporalSmoothing,
)

__all__ = ['SmoothedModel', 'SpatialEnsemble', 'SpatialTemporalSmoothing']
