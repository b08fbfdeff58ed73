# SPDX-License-Identifier: Apache-2.0
"""The shortest way of an update, for the device, the layout and the units at hand.

============= ====================================================================================
way           for
============= ====================================================================================
fused         teacher and student both on the CPU or on one CUDA GPU, laid out alike in memory: one
              kernel, which draws the picks itself (:mod:`~se_mm.smoothing.fused`)
whole tensors tensor and layer units otherwise, as of an offloaded teacher: one multi-tensor call
plain         channels and elements otherwise, and averages that are not a number
============= ====================================================================================

All of them write the same values: copies to the bit, averages to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional, Protocol

import torch

from se_mm.smoothing.fused import Fused
from se_mm.smoothing.picks import draw
from se_mm.smoothing.units import Units, is_sharded, local_pair
from se_mm.smoothing.update import Average, batches, draw_picks, update, update_whole


class Way(Protocol):
    """A way to update teachers that are alike in dtype and device, and so are their students."""

    def __init__(self, units: Units) -> None:
        """Work out what does not change from update to update."""

    def update(self, seed: int, step: int, keep_prob: float, average: Optional[float]) -> None:
        """Make one update: see :meth:`Plan.update`."""


class Plan:
    """How the tensors of some units are updated, worked out once.

    This is the only place where a teacher's values are written during training.

    Args:
        units: What is updated.
    """

    def __init__(self, units: Units) -> None:
        self.units = units
        self._sharded = any(is_sharded(pair.teacher) for pair in units.pairs)
        self._addresses: list[int] = []
        self._local = units
        self._ways: list[Way] = []

    @torch.no_grad()
    def update(self, seed: int, step: int, keep_prob: float, average: Average) -> None:
        """Make one update.

        Args:
            seed: Seed of the picks.
            step: The update step, at least 0.
            keep_prob: Probability in [0, 1) that a unit is kept.
            average: How a picked unit follows.
        """
        if average == 0:
            return
        # Some wrappers give a parameter other memory after it was bound.
        pairs = self.units.pairs
        if self._sharded:
            pairs = tuple(local_pair(pair) for pair in pairs)
        addresses = [t.data_ptr() for pair in pairs for t in (pair.teacher, pair.student)]
        if addresses != self._addresses:
            self._local = Units(pairs, self.units.granularity)
            self._ways = list(_ways(self._local))
            self._addresses = addresses
        if callable(average):
            update(pairs, draw_picks(self._local, seed, step, keep_prob), average)
            return
        # With a weight of 1, the teacher's infinities would stay.
        average = None if average == 1 else average
        for way in self._ways:
            way.update(seed, step, keep_prob, average)


def _ways(units: Units) -> Iterator[Way]:
    """The shortest way for each of the tensors."""
    otherwise: type[Way] = _Whole if units.granularity in ('tensor', 'layer') else _Plain
    for batch in batches(units.pairs):
        taken = [Fused.takes(pair, units.granularity) for pair in batch]
        for way, flag in ((Fused, True), (otherwise, False)):
            pairs = [pair for pair, fused in zip(batch, taken) if fused is flag]
            if pairs:
                yield way(Units(pairs, units.granularity))


class _Whole:
    """Updates whole tensors, those that are picked, in one call."""

    def __init__(self, units: Units) -> None:
        self._units = units
        self._teachers = [pair.teacher for pair in units.pairs]
        self._students = [pair.student for pair in units.pairs]

    def update(self, seed: int, step: int, keep_prob: float, average: Optional[float]) -> None:
        if keep_prob == 0:
            update_whole(self._teachers, self._students, average)
            return
        (keys,) = self._units.keys.values()
        taken = draw(keys, seed, step, keep_prob).tolist()
        picked = [index for index, (first, _) in enumerate(self._units.spans) if taken[first]]
        if picked:
            teachers = [self._teachers[index] for index in picked]
            update_whole(teachers, [self._students[index] for index in picked], average)


class _Plain:
    """Updates whatever there is, as the method is written down."""

    def __init__(self, units: Units) -> None:
        self._units = units

    def update(self, seed: int, step: int, keep_prob: float, average: Optional[float]) -> None:
        update(self._units.pairs, draw_picks(self._units, seed, step, keep_prob), average)
