# SPDX-License-Identifier: Apache-2.0
"""Compare the runs of a study: each cell to the reference, and to its control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from se_mm.evaluation.matrix import Cell
from se_mm.evaluation.paired import MIN_PAIRS, Difference, paired_difference
from se_mm.evaluation.runs import Run
from se_mm.evaluation.study import Group, Study


@dataclass(frozen=True)
class Row:
    """One row of a comparison: a cell and its differences.

    Attributes:
        cell: The cell.
        values: Seed -> metric, of completed runs.
        to_reference: Difference from the group's reference; None for the reference itself.
        to_control: Difference from its TMA at the matched horizon; None if it has none, or if that
            is the reference.
    """

    cell: Cell
    values: Mapping[int, float]
    to_reference: Optional[Difference]
    to_control: Optional[Difference]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def deviation(self) -> Optional[float]:
        """Standard deviation over the seeds; None for fewer than two."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """The comparison of one metric within one group.

    Attributes:
        group: The group.
        metric: Name of the metric.
        rows: One for each cell with a completed run.
        seeds: The requested seeds.
    """

    group: Group
    metric: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]

    @property
    def digits(self) -> int:
        """Decimals to print: 1 for metrics in %, 3 for shares."""
        largest = max((abs(v) for row in self.rows for v in row.values.values()), default=1)
        return 1 if largest > 1 else 3

    @property
    def differences(self) -> list[Difference]:
        """All differences of the rows."""
        both = [d for row in self.rows for d in (row.to_reference, row.to_control)]
        return [difference for difference in both if difference is not None]

    @property
    def notes(self) -> Iterator[str]:
        """Remarks needed to interpret the table."""
        told = sum(d.verdict in ('higher', 'lower') for d in self.differences)
        made = len(self.differences)
        if len(self.seeds) < 2:
            yield (
                'No intervals with a single seed: the variation between seeds is unknown, so no '
                'difference in this table is meaningful yet.'
            )
        elif made:
            chance = max(1, round(0.05 * made))
            yield (
                f'{told} of {made} intervals exclude 0; about {chance} would by chance if there '
                f'were no differences.'
            )
            if not told:
                yield 'These data do not distinguish any of them.'
        if 2 <= len(self.seeds) < 10:
            few = f', and fewer than {MIN_PAIRS} decide nothing'
            few = few if len(self.seeds) < MIN_PAIRS else ''
            yield (
                f'Bootstrap intervals over {len(self.seeds)} seeds are too narrow{few}; use 10 '
                f'seeds.'
            )
        missing: dict[tuple[int, ...], list[str]] = {}
        for row in self.rows:
            seeds = tuple(seed for seed in self.seeds if seed not in row.values)
            missing.setdefault(seeds, []).append(row.cell.name)
            if row.cell.note:
                yield row.cell.note
        for seeds, names in missing.items():
            if seeds:
                which = 'all' if len(names) == len(self.rows) else ', '.join(names)
                yield f'Missing runs: seed {", ".join(map(str, seeds))} of {which}.'


def compare(
    study: Study, runs: Mapping[tuple[str, str], Mapping[int, Run]]
) -> Iterator[Comparison]:
    """Compare the completed runs of a study, for each group and metric.

    Args:
        study: The study.
        runs: Its runs: (name of the group, name of the cell) -> seed -> run.
    """
    for group in study.groups:
        for metric in study.metrics:
            values = {
                cell.name: {
                    seed: run.metrics[metric]
                    for seed, run in runs[group.name, cell.name].items()
                    if run.metrics is not None
                }
                for cell in group.cells
            }
            rows = [_row(group, cell, values) for cell in group.cells if values[cell.name]]
            yield Comparison(group, metric, tuple(rows), study.seeds)


def _row(group: Group, cell: Cell, values: Mapping[str, Mapping[int, float]]) -> Row:
    own = values[cell.name]

    def to(name: Optional[str]) -> Optional[Difference]:
        return None if name in (None, cell.name) else paired_difference(own, values[name])

    control = None if cell.control == group.reference else cell.control
    return Row(cell, own, to(group.reference), to(control))


def as_json(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """Convert comparisons to JSON types."""

    def plain(difference: Optional[Difference], other: Optional[str]) -> Optional[dict[str, Any]]:
        if difference is None:
            return None
        return {
            'from': other,
            'mean': difference.mean,
            'interval': difference.interval,
            'verdict': difference.verdict,
        }

    return [
        {
            'group': comparison.group.name,
            'metric': comparison.metric,
            'reference': comparison.group.reference,
            'cells': [
                {
                    'name': row.cell.name,
                    'hooks': row.cell.config.to_dict().get('custom_hooks', []),
                    'values': row.values,
                    'mean': row.mean,
                    'deviation': row.deviation,
                    'difference': plain(row.to_reference, comparison.group.reference),
                    'matched_difference': plain(row.to_control, row.cell.control),
                }
                for row in comparison.rows
            ],
        }
        for comparison in comparisons
    ]
