# SPDX-License-Identifier: Apache-2.0
"""Plots and tables of a teacher's provenance."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure

from se_mm.history.provenance import BEFORE, SAMPLE, Provenance, effective_size
from se_mm.history.stages import stages

# Okabe and Ito's colour-blind safe palette.
MEASURED, EXPECTED = '#56B4E9', '#D55E00'
_COLUMNS = 256  # Of the map; more units share columns.
_BINS = 30
_AGES = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10**4, 10**5)  # Ticks of the colour scale.


def summary(found: Provenance) -> list[tuple[str, ...]]:
    """Summarise a teacher's provenance in rows of ``(what, measured, expected)``."""
    expected = found.expected
    rows: list[tuple[str, ...]] = [('updates made', f'{found.updates:,}', '')]
    if not np.isnan(found.mean_age):
        sizes = effective_size(found.share, found.before), effective_size(expected.share)
        rows += [
            ('mean age, updates', f'{found.mean_age:,.2f}', f'{expected.mean_age:,.2f}'),
            ('effective ensemble size, students', *(f'{size:,.2f}' for size in sizes)),
        ]
    rows.append(('oldest unit, updates ago', f'{found.oldest:,}', ''))
    if found.before:
        rows.append(('from before se_mm', f'{found.before:.1%}', ''))
    if any(tensor.units > len(tensor.taken) for tensor in found.tensors):
        rows.append(('units tracked of each tensor, at most', f'{SAMPLE:,}', ''))
    return rows


def stage_table(found: Provenance) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of a table of the parts of a teacher."""
    tensors = {tensor.name: tensor for tensor in found.tensors}
    rows = []
    for stage, names in stages(tensors).items():
        part = replace(found, tensors=tuple(tensors[name] for name in names))
        numbers = sum(prod(tensor.shape) for tensor in part.tensors)
        units = sum(len(tensor.taken) for tensor in part.tensors)
        counts = [f'{count:,}' for count in (len(names), numbers, units)]
        rows.append([stage, *counts, f'{part.mean_age:,.1f}', f'{part.oldest:,}'])
    return ['part', 'tensors', 'numbers', 'units tracked', 'mean age', 'oldest unit'], rows


def draw_history(found: Provenance, title: str) -> Figure:
    """Plot the age of every unit, and the measured and expected distributions of ages."""
    expected = found.expected
    known = not np.isnan(found.mean_age)
    averaged = known and not np.allclose(expected.share, expected.taken)
    figure = Figure((13, np.clip(1.5 + 0.2 * len(found.tensors), 5, 11)), layout='constrained')
    figure.suptitle(title)
    grid = figure.add_gridspec(1 + averaged, 2, width_ratios=(3, 2))
    _draw_map(figure.add_subplot(grid[:, 0]), found)
    ages = found.updates - 1 - found.taken[found.taken != BEFORE].numpy()
    units = np.bincount(ages, minlength=found.updates) / len(found.taken)
    axes = figure.add_subplot(grid[0, 1])
    axes.set(ylabel='share of units', xlabel='updates since a unit was last picked')
    _draw_ages(axes, units, expected.taken.flip(0).numpy())
    if averaged:
        axes = figure.add_subplot(grid[1, 1])
        axes.set(ylabel='share of the contents', xlabel='age of what the teacher holds, in updates')
        _draw_ages(axes, found.share.flip(0).numpy(), expected.share.flip(0).numpy())
    return figure


def _draw_map(axes: Axes, found: Provenance) -> None:
    """Plot a map with a row per tensor, a column per unit, and the unit's age as colour."""
    rows = []
    for tensor in found.tensors:
        ages = (found.updates - 1 - tensor.taken.clamp(min=0)).double().numpy()
        # Units that share a column are averaged, and fewer units are each several columns.
        edges = np.arange(_COLUMNS) * len(ages) // _COLUMNS
        rows.append(np.add.reduceat(ages, edges) / np.diff(edges, append=len(ages)).clip(1))
    image = np.stack(rows)
    oldest = max(1, int(np.ceil(image.max())))
    norm = FuncNorm((np.log1p, np.expm1), vmin=0, vmax=oldest)
    shown = axes.imshow(image, aspect='auto', cmap='viridis_r', norm=norm, interpolation='nearest')
    for first in _name_rows(axes, [tensor.name for tensor in found.tensors]):
        axes.axhline(first - 0.5, color='white', lw=0.8)
    axes.set(xticks=[], xlabel='units of each tensor, one beside the other')
    # The oldest has a tick, and the others keep a distance so that their labels do not overlap.
    ticks = [age for age in _AGES if np.log1p(age) < 0.93 * np.log1p(oldest)] + [oldest]
    bar = axes.figure.colorbar(shown, ax=axes, location='top', shrink=0.9, aspect=40, ticks=ticks)
    bar.ax.set_xticks(ticks, [f'{tick:,}' for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label('updates since a unit was last picked (yellow: just now)')


def _name_rows(axes: Axes, names: list[str]) -> list[int]:
    """Name the rows of a plot, or its parts if the rows are many; return where parts begin."""
    axes.set_ylabel('tensors, in the order of the model')
    if len(names) <= 40:
        axes.set_yticks(range(len(names)), names, fontsize=8)
        return []
    groups = stages(names)
    firsts = {names.index(group[0]): name for name, group in groups.items()}
    ends = [*list(firsts)[1:], len(names)]
    # Closer names would overlap.
    apart = [first for first, end in zip(firsts, ends) if end - first >= len(names) / 50]
    axes.set_yticks(apart, [firsts[first] for first in apart], fontsize=8, va='top')
    return ends[:-1]


def _draw_ages(axes: Axes, measured: np.ndarray, expected: np.ndarray) -> None:
    """Plot measured shares by age, youngest first, as bars, and expected ones as a line."""
    # Cover 99.9 % of the expected shares; the last bin has all older ones.
    reach = np.searchsorted(np.cumsum(expected), 0.999 * expected.sum()) + 1
    width = -(-reach // _BINS)
    bins = min(_BINS + 1, -(-len(measured) // width))
    edges = width * np.arange(bins + 1)
    ages = np.minimum(np.arange(len(measured)), edges[-1] - 1)
    axes.hist(ages, edges, weights=measured, rwidth=0.92, color=MEASURED, label='this teacher')
    line, _ = np.histogram(ages, edges, weights=expected)
    axes.plot(edges[:-1] + width / 2, line, 'o-', color=EXPECTED, ms=4, lw=1.5, label='expected')
    per = f' in {width} updates' if width > 1 else ''
    older = ' (last: all older)' if edges[-1] < len(measured) else ''
    axes.set(ylabel=axes.get_ylabel() + per, xlabel=axes.get_xlabel() + older)
    axes.set(xlim=(0, edges[-1]), ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[['top', 'right']].set_visible(False)
