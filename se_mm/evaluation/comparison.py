# SPDX-License-Identifier: Apache-2.0
"""What a study's runs say: each cell against the reference, and against its control."""

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
    """One cell of a comparison.

    Attributes:
        cell: The cell.
        values: Seed -> metric, of the runs that are complete.
        to_reference: Its difference from the group's reference; None for the reference itself.
        to_control: Its difference from its TMA at the matched horizon; None where it has none, or
            where that is the reference.
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
    """One metric of one group.

    Attributes:
        group: The group.
        metric: Name of the metric.
        rows: One for each cell with a run that is complete.
        seeds: Those that were asked for.
    """

    group: Group
    metric: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]

    @property
    def digits(self) -> int:
        """Digits after the point that are worth printing: some metrics are in %, others shares."""
        largest = max((abs(v) for row in self.rows for v in row.values.values()), default=1)
        return 1 if largest > 1 else 3

    @property
    def differences(self) -> list[Difference]:
        """All that are made."""
        both = [d for row in self.rows for d in (row.to_reference, row.to_control)]
        return [difference for difference in both if difference is not None]

    @property
    def notes(self) -> Iterator[str]:
        """What a reader of the table has to know of it."""
        told = sum(d.verdict in ('higher', 'lower') for d in self.differences)
        made = len(self.differences)
        if len(self.seeds) < 2:
            yield (
                'No interval: it is over seeds, and there is one only. How much they differ is not '
                'known from it, so no difference in this table means anything yet.'
            )
        elif made:
            chance = max(1, round(0.05 * made))
            yield (
                f'Of {made} intervals, {told} leave out 0; of so many, about {chance} would if '
                f'there were no difference at all.'
            )
            if not told:
                yield 'These data cannot tell any of them from another.'
        if 2 <= len(self.seeds) < 10:
            few = f'; fewer than {MIN_PAIRS} tell nothing' if len(self.seeds) < MIN_PAIRS else ''
            yield f'Bootstrap intervals over {len(self.seeds)} seeds are too narrow{few}: take 10.'
        missing: dict[tuple[int, ...], list[str]] = {}
        for row in self.rows:
            seeds = tuple(seed for seed in self.seeds if seed not in row.values)
            missing.setdefault(seeds, []).append(row.cell.name)
            if row.cell.note:
                yield row.cell.note
        for seeds, names in missing.items():
            if seeds:
                which = 'all' if len(names) == len(self.rows) else ', '.join(names)
                yield f'Not complete: seed {", ".join(map(str, seeds))} of {which}.'


def compare(
    study: Study, runs: Mapping[tuple[str, str], Mapping[int, Run]]
) -> Iterator[Comparison]:
    """The comparisons of a study, by those runs that are complete.

    Args:
        study: The study.
        runs: Its runs: (name of the group, name of the cell) -> seed -> its run.
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
    """Comparisons of JSON's types."""

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
