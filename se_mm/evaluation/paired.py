# SPDX-License-Identifier: Apache-2.0
"""Paired comparison of two settings over runs with the same seeds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

import numpy as np

CONFIDENCE = 0.95
# Five differences all have the same sign by chance in 1 of 16 cases, which is more than 1 in 20.
MIN_PAIRS = 6
# Enough for the ends of an interval to vary by only about 1 % of its width.
RESAMPLES = 9999


@dataclass(frozen=True)
class Difference:
    """The paired difference of two settings.

    Attributes:
        values: Seed -> metric of the first setting minus that of the second.
        mean: Mean of the values.
        interval: 95 % bootstrap interval of the mean; None for fewer than two seeds, which say
            nothing about the variation between seeds.
    """

    values: Mapping[int, float]
    mean: float
    interval: Optional[tuple[float, float]]

    @property
    def verdict(self) -> str:
        """``'higher'``, ``'lower'``, ``'equal'``, or that the data cannot tell."""
        if self.interval is None:
            return 'one seed cannot tell' if self.values else 'no seed in common'
        low, high = self.interval
        if low == high == 0:
            return 'equal'
        if low <= 0 <= high:
            return 'cannot tell'
        if len(self.values) < MIN_PAIRS:
            return f'{len(self.values)} seeds cannot tell'
        return 'higher' if low > 0 else 'lower'


def paired_difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Compare two settings over the seeds that both have.

    Args:
        one: Seed -> metric of the first setting.
        other: Seed -> metric of the setting that it is compared to.
    """
    values = {seed: one[seed] - other[seed] for seed in one if seed in other}
    differences = np.array(list(values.values()))
    if not values:
        return Difference(values, float('nan'), None)
    interval = bootstrap_interval(differences) if len(values) > 1 else None
    return Difference(values, float(differences.mean()), interval)


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """Compute the 95 % interval of the mean with the bias-corrected and accelerated bootstrap.

    Source: Efron, *Better Bootstrap Confidence Intervals*, JASA 1987; computed by SciPy. Intervals
    from few values are somewhat too narrow: with ten normally distributed values they contain the
    mean in about 90 % of cases.

    Args:
        values: Shape (n,), n at least 2.
    """
    from scipy import stats

    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (values,),
            np.mean,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            method='BCa',
            random_state=np.random.default_rng(0),
        ).confidence_interval
    if np.isnan([found.low, found.high]).any():  # The acceleration is undefined.
        return float(values.min()), float(values.max())
    return float(found.low), float(found.high)
