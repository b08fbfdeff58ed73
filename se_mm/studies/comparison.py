# SPDX-License-Identifier: Apache-2.0
"""Compare the cells of a study seed by seed: each to the reference, and to its control."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from se_mm.studies.runs import Run
from se_mm.studies.study import Study

# Five differences all have the same sign by chance in 1 of 16 cases, which is more than 1 in 20.
MIN_SEEDS = 6
_NOT_COMPARED = {'difference': np.nan, 'low': np.nan, 'high': np.nan, 'verdict': ''}


def paired_difference(one: pd.Series, other: pd.Series) -> dict[str, Any]:
    """Return the mean ``difference`` over the seeds that both have, its interval, and the verdict.

    ``low`` and ``high`` are the ends of its 95 % interval, NaN for fewer than two seeds.
    """
    values = (one - other).dropna()
    low, high = bootstrap_interval(values.to_numpy()) if len(values) > 1 else (np.nan, np.nan)
    if len(values) < MIN_SEEDS:
        verdict = f'{len(values)} seeds cannot tell'
    elif low <= 0 <= high:
        verdict = 'equal' if low == high else 'cannot tell'
    else:
        verdict = 'higher' if low > 0 else 'lower'
    return {'difference': values.mean(), 'low': low, 'high': high, 'verdict': verdict}


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """Compute the 95 % interval of the mean with the bias-corrected and accelerated bootstrap.

    Source: Efron, *Better Bootstrap Confidence Intervals*, JASA 1987. Intervals from few values are
    too narrow: those from ten normally distributed ones contain the mean in about 90 % of cases.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Of values that hardly differ; see below.
        found = stats.bootstrap((values,), np.mean, method='BCa', random_state=0)
    low, high = found.confidence_interval
    if np.isnan([low, high]).any() or np.ptp(values) == 0:  # The acceleration is undefined.
        low, high = values.min(), values.max()
    return float(low), float(high)


def compare(study: Study, runs: Mapping[tuple[str, str, int], Run]) -> pd.DataFrame:
    """Compare the completed runs of a study: a row for each group, metric and cell that has one.

    ``values`` has the metric of each seed. The :func:`paired_difference` from the reference has the
    names ``difference``, ..., and that from the control ``matched_difference``, ...
    """
    rows = []
    metrics = {key: run.metrics for key, run in runs.items() if run.metrics}
    for (group, cells), metric in product(study.groups.items(), study.metrics):
        values = {}
        for cell in cells:
            keys = {seed: (group, cell.name, seed) for seed in study.seeds}
            known = {s: metrics[k][cell.metric(metric)] for s, k in keys.items() if k in metrics}
            if known:
                values[cell.name] = pd.Series(known)
        reference = study.reference(group)
        for cell in cells:
            own = values.get(cell.name)
            if own is None:
                continue
            row: dict[str, Any] = {'group': group, 'metric': metric, 'cell': cell.name}
            row |= {'reference': reference, 'control': cell.control, 'values': own.to_dict()}
            row |= {'mean': own.mean(), 'deviation': own.std()}
            for prefix, name in (('', reference), ('matched_', cell.control)):
                other = None if name in (None, cell.name) else values.get(name)
                found = _NOT_COMPARED if other is None else paired_difference(own, other)
                row |= {f'{prefix}{key}': value for key, value in found.items()}
            rows.append(row)
    return pd.DataFrame(rows)


def notes(rows: pd.DataFrame, seeds: Sequence[int]) -> Iterator[str]:
    """Yield remarks needed to interpret the rows of one group and metric, given all seeds."""
    if len(seeds) < 2:
        yield 'No intervals with a single seed: no difference is meaningful yet.'
    elif len(seeds) < 10:
        few = f', and fewer than {MIN_SEEDS} decide nothing' if len(seeds) < MIN_SEEDS else ''
        yield f'Bootstrap intervals over {len(seeds)} seeds are too narrow{few}; use 10 seeds.'
    for cell, values in zip(rows['cell'], rows['values']):
        missing = [str(seed) for seed in seeds if seed not in values]
        if missing:
            yield f'Missing runs of {cell}: seed {", ".join(missing)}.'
