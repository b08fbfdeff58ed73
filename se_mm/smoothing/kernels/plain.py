# SPDX-License-Identifier: Apache-2.0
"""The backend for every device, layout and dtype: PyTorch's own operations."""

from __future__ import annotations

from typing import Optional

from se_mm.smoothing.units import Pair, Units
from se_mm.smoothing.update import draw_picks, update


class PlainKernel:
    """Updates the units as the method is written down: see :mod:`~se_mm.smoothing.update`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    @staticmethod
    def takes(pair: Pair, granularity: str) -> bool:
        """Whether this backend can update a pair: it can update all."""
        return True

    def update(self, seed: int, step: int, keep_prob: float, weight: Optional[float]) -> None:
        """Make one update: see :class:`~se_mm.smoothing.kernels.base.Kernel`."""
        update(self._units.pairs, draw_picks(self._units, seed, step, keep_prob), weight)
