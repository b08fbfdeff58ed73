# SPDX-License-Identifier: Apache-2.0
"""Plots and tables of a teacher's provenance."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from se_mm.history.provenance import BEFORE, Law, Provenance, TensorHistory, effective_size
from se_mm.history.stages import stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colour-blind safe palette.
MEASURED, EXPECTED = '#56B4E9', '#D55E00'
_COLUMNS = 256  # Of the map; more units share columns.
_BINS = 30
_AGES = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10**4, 10**5)  # Ticks of the colour scale.
_NAMED = 40  # Up to this number, each row of the map has its own name.


def summary(found: Provenance, expected: Law) -> list[tuple[str, str, str]]:
    """Summarise a teacher's provenance in rows of ``(what, measured, expected)``.

    Args:
        found: The measured provenance.
        expected: The expected distribution.
    """
    known = not np.isnan(found.mean_age)
    rows = [('updates made', f'{found.updates:,}', '')]
    if known:
        rows += [
            ('mean age, updates', f'{found.mean_age:,.2f}', f'{expected.mean_age:,.2f}'),
            (
                'effective ensemble size, students',
                f'{found.effective_size:,.2f}',
                f'{effective_size(expected.share):,.2f}',
            ),
            ('contributing updates', f'{int((found.share > 0).sum()):,}', ''),
        ]
    rows.append(('oldest unit, updates ago', f'{found.oldest:,}', ''))
    if found.before:
        rows.append(('from before se_mm', f'{found.before:.1%}', ''))
    return rows


def stage_table(found: Provenance) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of a table of the parts of a teacher."""
    header = ['part', 'tensors', 'numbers', 'units tracked', 'mean age', 'oldest unit']
    by_name = {tensor.name: tensor for tensor in found.tensors}
    rows = []
    for stage, names in stages(by_name).items():
        tensors = [by_name[name] for name in names]
        numbers = [prod(tensor.shape) for tensor in tensors]
        ages = [float(tensor.age.mean()) for tensor in tensors]
        oldest = found.updates - 1 - min(int(t.taken.clamp(min=0).min()) for t in tensors)
        rows.append(
            [
                stage,
                str(len(tensors)),
                f'{sum(numbers):,}',
                f'{sum(len(tensor.taken) for tensor in tensors):,}',
                f'{np.average(ages, weights=numbers):,.1f}',
                f'{oldest:,}',
            ]
        )
    return header, rows


def draw_history(found: Provenance, expected: Law, title: str) -> Figure:
    """Plot the age of every unit, and the distribution of ages.

    Args:
        found: The measured provenance of the teacher.
        expected: The expected distribution.
        title: Title of the figure.
    """
    plt = _pyplot()
    contents = not np.isnan(found.mean_age)
    averaged = contents and not np.allclose(expected.share.numpy(), expected.taken.numpy())
    rows = len(found.tensors)
    height = max(5.0, min(11.0, 1.5 + 0.2 * rows))
    figure = plt.figure(figsize=(13, height), layout='constrained')
    grid = figure.add_gridspec(2 if averaged else 1, 2, width_ratios=(3, 2))
    _draw_map(figure, figure.add_subplot(grid[:, 0]), found)
    taken = found.taken
    known = taken[taken != BEFORE]
    ages = found.updates - 1 - known.numpy()
    _draw_ages(
        figure.add_subplot(grid[0, 1]),
        np.bincount(ages, minlength=found.updates) / max(1, len(taken)),
        expected.taken.flip(0).numpy(),
        'share of units',
        'updates since a unit was last taken over',
    )
    if averaged:
        _draw_ages(
            figure.add_subplot(grid[1, 1]),
            found.share.flip(0).numpy(),
            expected.share.flip(0).numpy(),
            'share of the contents',
            'age of what the teacher holds, in updates',
        )
    figure.suptitle(title)
    return figure


def _draw_map(figure: Figure, axes: Axes, found: Provenance) -> None:
    """Plot a map with a row per tensor, a column per unit, and the unit's age as colour."""
    from matplotlib.colors import FuncNorm

    image = np.stack([_row(tensor, found.updates) for tensor in found.tensors])
    oldest = max(1, int(np.ceil(np.nanmax(image))))
    norm = FuncNorm((np.log1p, np.expm1), vmin=0, vmax=oldest)
    shown = axes.imshow(
        image, aspect='auto', cmap='viridis_r', norm=norm, interpolation='nearest', extent=None
    )
    names = [tensor.name for tensor in found.tensors]
    groups = stages(names)
    if len(names) <= _NAMED:
        axes.set_yticks(range(len(names)), names, fontsize=8)
    else:
        firsts = [names.index(group[0]) for group in groups.values()]
        apart = len(names) / 50  # Closer names would overlap.
        named = [
            (first, name)
            for first, name, after in zip(firsts, groups, [*firsts[1:], len(names)])
            if after - first >= apart
        ]
        axes.set_yticks(*zip(*named), fontsize=8, va='top')
        for first in firsts[1:]:
            axes.axhline(first - 0.5, color='white', lw=0.8)
    axes.set_xticks([])
    axes.set_xlabel('units of each tensor, one beside the other')
    axes.set_ylabel('tensors, in the order of the model')
    # The oldest has a tick, and the others keep a distance so that their labels do not overlap.
    ticks = [age for age in _AGES if np.log1p(age) < 0.93 * np.log1p(oldest)] + [oldest]
    bar = figure.colorbar(shown, ax=axes, location='top', shrink=0.9, aspect=40, ticks=ticks)
    bar.ax.set_xticklabels([f'{tick:,}' for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label('updates since a unit was last taken over (yellow: just now)')


def _row(tensor: TensorHistory, updates: int) -> np.ndarray:
    """Return the ages of a tensor's units as a row of the map."""
    ages = (updates - 1 - tensor.taken.clamp(min=0)).double().numpy()
    if len(ages) <= _COLUMNS:
        return ages[np.arange(_COLUMNS) * len(ages) // _COLUMNS]
    edges = np.arange(_COLUMNS) * len(ages) // _COLUMNS
    return np.add.reduceat(ages, edges) / np.diff([*edges, len(ages)])


def _draw_ages(
    axes: Axes, measured: np.ndarray, expected: np.ndarray, what: str, label: str
) -> None:
    """Plot measured shares by age, youngest first, as bars, and expected ones as a line."""
    # Cover 99.9 % of the expected shares; the last bin has all older ones.
    reach = int(np.searchsorted(np.cumsum(expected), 0.999 * expected.sum())) + 1
    width = max(1, -(-reach // _BINS))
    edges = np.arange(0, len(measured) + 1, width)[: _BINS + 1]
    if len(edges) < 2 or edges[-1] < len(measured):
        edges = np.append(edges[:-1] if len(edges) > _BINS else edges, len(measured))
    widths = np.minimum(np.diff(edges), width)
    shares = [np.add.reduceat(values, edges[:-1]) for values in (measured, expected)]
    axes.bar(
        edges[:-1],
        shares[0],
        width=widths * 0.92,
        align='edge',
        color=MEASURED,
        label='this teacher',
    )
    axes.plot(
        edges[:-1] + widths / 2, shares[1], 'o-', color=EXPECTED, ms=4, lw=1.5, label='expected'
    )
    per = '' if width == 1 else f' in {width} updates'
    axes.set_ylabel(f'{what}{per}')
    older = ' (last: all older)' if edges[-1] - edges[-2] > width else ''
    axes.set_xlabel(f'{label}{older}')
    axes.set_xlim(0, edges[-2] + width)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[['top', 'right']].set_visible(False)


def distances(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute the relative L2 distance ``|t - s| / |s|`` of each tensor that both networks have.

    Args:
        teacher: Name in the student's model -> tensor of the teacher.
        student: Name -> tensor of the student.
    """
    found = {}
    for name, value in teacher.items():
        other = student.get(name)
        if other is None or other.shape != value.shape or not value.is_floating_point():
            continue
        size = float(other.double().norm())
        found[name] = float((value.double() - other.double()).norm()) / max(size, 1e-12)
    return found


def draw_distances(found: Mapping[str, float], title: str) -> Figure:
    """Plot the distance of each tensor of a teacher from its student's.

    Args:
        found: Name -> distance.
        title: Title of the figure.
    """
    plt = _pyplot()
    names = list(found)
    height = max(4.0, min(11.0, 1.5 + 0.2 * len(names)))
    figure, axes = plt.subplots(figsize=(10, height), layout='constrained')
    axes.barh(range(len(names)), list(found.values()), height=0.9, color=MEASURED)
    if len(names) <= _NAMED:
        axes.set_yticks(range(len(names)), names, fontsize=8)
    else:
        groups = stages(names)
        axes.set_yticks([names.index(group[0]) for group in groups.values()], list(groups))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_ylabel('tensors, in the order of the model')
    axes.set_xlabel('distance from the student, |t - s| / |s|')
    axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(title)
    return figure


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot
