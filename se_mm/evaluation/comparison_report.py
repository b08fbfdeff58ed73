# SPDX-License-Identifier: Apache-2.0
"""Report a comparison: tables, figures and an HTML page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from rich.console import Console
from rich.table import Table

from se_mm.evaluation.comparison import Comparison, Row
from se_mm.evaluation.paired import Difference
from se_mm.history.page import embedded, page, png, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = ('smoothing', 'seeds', 'mean ± sd', 'less the reference', 'less its matched TMA')
# Okabe and Ito's colour-blind safe palette.
REFERENCE_COLOUR, CONTROL_COLOUR, SEED_COLOUR = '#0072B2', '#D55E00', '0.6'


def rows_of(comparison: Comparison) -> list[list[str]]:
    """Return the rows of the table, the header first."""
    digits = comparison.digits
    matched = any(row.to_control is not None for row in comparison.rows)
    width = len(HEADER) if matched else len(HEADER) - 1

    def said(difference: Optional[Difference]) -> str:
        if difference is None:
            return ''
        interval = ''
        if difference.interval is not None:
            low, high = difference.interval
            interval = f' ({low:+.{digits}f} to {high:+.{digits}f})'
        return f'{difference.mean:+.{digits}f}{interval}: {difference.verdict}'

    def line(row: Row) -> list[str]:
        name = row.cell.name + (' (reference)' if row.to_reference is None else '')
        deviation = '' if row.deviation is None else f' ± {row.deviation:.{digits}f}'
        mean = f'{row.mean:.{digits}f}{deviation}'
        return [name, str(len(row.values)), mean, said(row.to_reference), said(row.to_control)]

    return [line[:width] for line in [list(HEADER), *map(line, comparison.rows)]]


def title(comparison: Comparison) -> str:
    """Return the title of the table."""
    group = f'{comparison.group.name}: ' if comparison.group.name else ''
    return f'{group}{comparison.metric}'


def show(comparison: Comparison, console: Console) -> None:
    """Print the table and its notes."""
    header, *rows = rows_of(comparison)
    table = Table(title=title(comparison))
    for index, column in enumerate(header):
        table.add_column(column, justify='right' if index in (1, 2) else 'left')
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in comparison.notes:
        console.print(note, markup=False, highlight=False)


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Format all tables as Markdown."""
    parts = []
    for comparison in comparisons:
        header, *rows = rows_of(comparison)
        lines = [header, ['---', '---:', '---:', '---', '---'][: len(header)], *rows]
        table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
        parts.append(
            '\n\n'.join([f'### {title(comparison)}', table, '\n'.join(comparison.notes)]).strip()
        )
    return '\n\n'.join(parts) + '\n'


def draw(comparison: Comparison) -> Figure:
    """Plot each cell's seeds and mean, and the differences with their intervals."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    rows = comparison.rows
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 1.5 + 0.36 * len(rows)), sharey=True, layout='constrained'
    )
    for place, row in enumerate(rows):
        left.plot(
            list(row.values.values()), [place] * len(row.values), 'o', color=SEED_COLOUR, ms=4
        )
        left.plot([row.mean], [place], '|', color='black', ms=16, mew=2)
        found = [
            (row.to_reference, REFERENCE_COLOUR, 'o', 0.12, 'from the reference'),
            (row.to_control, CONTROL_COLOUR, 's', -0.12, 'from its TMA at the matched horizon'),
        ]
        for difference, colour, marker, shift, label in found:
            if difference is None:
                continue
            where = place - shift
            if difference.interval is not None:
                right.plot(difference.interval, [where, where], '-', color=colour, lw=2)
            right.plot([difference.mean], [where], marker, color=colour, ms=6, label=label)
    left.set_yticks(range(len(rows)), [row.cell.name for row in rows], fontsize=9)
    left.invert_yaxis()
    left.set_xlabel(f'{comparison.metric} (dots: seeds, bar: mean)')
    right.axvline(0, color='0.3', lw=1)
    right.set_xlabel('difference in the mean, 95 % interval')
    handles, labels = right.get_legend_handles_labels()
    once = dict(zip(labels, handles))
    if once:
        figure.legend(
            once.values(),
            once.keys(),
            loc='outside lower right',
            ncols=2,
            frameon=False,
            fontsize=9,
        )
    for axes in (left, right):
        axes.grid(axis='y', color='0.92')
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    figure.suptitle(f'{title(comparison)}, reference {comparison.group.reference}', fontsize=11)
    return figure


def write_report(comparisons: Sequence[Comparison], command: str, folder: Path) -> None:
    """Write the tables, a figure of each, and a self-contained page with all of them.

    Args:
        comparisons: At least one.
        command: The command that trained the runs.
        folder: Where to write ``report.md``, ``report.html`` and ``<group>_<metric>.png``.
    """
    (folder / 'report.md').write_text(f'{markdown(comparisons)}\n```bash\n{command}\n```\n')
    body = [_INTRODUCTION]
    for comparison in comparisons:
        picture = png(draw(comparison))
        name = '_'.join(filter(None, [comparison.group.name, comparison.metric.replace('/', '_')]))
        (folder / f'{name}.png').write_bytes(picture)
        heading = html.escape(title(comparison))
        header, *rows = rows_of(comparison)
        notes = ''.join(f'<li>{html.escape(note)}</li>' for note in comparison.notes)
        alt = f'Seeds and differences of {title(comparison)}, as in the table above'
        body += [f'<h2>{heading}</h2>', table(header, rows), f'<ul>{notes}</ul>']
        body.append(embedded(picture, alt))
    body.append(f'<h2>Command</h2>\n<pre>{html.escape(command)}</pre>')
    (folder / 'report.html').write_text(page('Comparison of smoothings', '\n'.join(body)))


_INTRODUCTION = """<p>Differences are computed seed by seed, from the reference and from the control
at the matched horizon: the average (TMA) that equals the teacher in expectation over its picks.
Intervals are 95 % bootstrap intervals of the mean difference; "cannot tell" means that they contain
0.</p>"""
