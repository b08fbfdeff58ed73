# SPDX-License-Identifier: Apache-2.0
"""Checks around the updates: finite values, equal ranks, and a single source of updates."""

from se_mm.smoothing.guards.guard import Guard, not_finite
from se_mm.smoothing.guards.watch import Watch

__all__ = ['Guard', 'Watch', 'not_finite']
