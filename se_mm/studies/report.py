# SPDX-License-Identifier: Apache-2.0
"""Report a comparison: tables, figures and a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from se_mm.page import embedded, page, png, render
from se_mm.studies.comparison import MIN_SEEDS, notes

# Prefix of the columns -> colour (Okabe and Ito, colour-blind safe), marker, place and label.
_DIFFERENCES = {
    '': ('#0072B2', 'o', -0.12, 'from the reference'),
    'matched_': ('#D55E00', 's', 0.12, 'from its matched TMA'),
}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Format the rows of one group and metric of a comparison for reading."""
    decimals = 1 if rows['mean'].abs().max() > 1 else 3  # Of metrics in %, and of shares.
    plain, signed = f'.{decimals}f', f'+.{decimals}f'
    lines = []
    for row in rows.to_dict('records'):
        line = {'seeds': len(row['values']), 'mean': format(row['mean'], plain)}
        line['sd'] = '' if isnan(row['deviation']) else format(row['deviation'], plain)
        for prefix, (*_, label) in _DIFFERENCES.items():
            names = ('difference', 'low', 'high', 'verdict')
            difference, low, high, verdict = (row[f'{prefix}{name}'] for name in names)
            interval = '' if isnan(low) else f' ({low:{signed}} to {high:{signed}})'
            text = f'{difference:{signed}}{interval}: {verdict}'
            line[f'difference {label}'] = text if verdict else ''
        lines.append(line)
    marks = rows['cell'].eq(rows['reference']).map({True: ' (reference)', False: ''})
    return pd.DataFrame(lines, rows['cell'] + marks)


def draw(rows: pd.DataFrame, title: str) -> Figure:
    """Plot each cell's seeds and mean, and the differences with their intervals."""
    figure = Figure(figsize=(10, 1.5 + 0.36 * len(rows)), layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    for place, values in zip(places, rows['values']):
        left.plot(list(values.values()), [place] * len(values), 'o', color='0.6', ms=4)
    left.plot(rows['mean'], places, '|', color='black', ms=16, mew=2)
    left.set_yticks(places, rows['cell'], fontsize=9)
    left.invert_yaxis()
    left.set_xlabel(f'{rows["metric"].iloc[0]} (dots: seeds, bar: mean)')
    for prefix, (colour, marker, shift, label) in _DIFFERENCES.items():
        where = [place + shift for place in places]
        right.hlines(where, rows[f'{prefix}low'], rows[f'{prefix}high'], color=colour, lw=2)
        right.plot(rows[f'{prefix}difference'], where, marker, color=colour, ms=6, label=label)
    right.axvline(0, color='0.3', lw=1)
    right.set_xlabel('difference in the mean, 95 % interval')
    figure.legend(loc='outside lower right', ncols=2, frameon=False, fontsize=9)
    for axes in (left, right):
        axes.grid(axis='y', color='0.92')
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.locator_params(axis='x', nbins=6)
    figure.suptitle(f'{title}, reference {rows["reference"].iloc[0]}', fontsize=11)
    return figure


def write_report(
    results: pd.DataFrame, seeds: Sequence[int], command: str, folder: Path, console: Console
) -> None:
    """Print the tables; write ``results.json``, a PNG of each table, and ``report.html``.

    ``results`` are those of :func:`~se_mm.studies.comparison.compare`, at least one row, and
    ``command`` is what trained the runs.
    """
    sections = []
    for names, rows in results.groupby(['group', 'metric'], sort=False):
        title = ': '.join(filter(None, names))
        section = {'title': title, 'table': table(rows), 'notes': list(notes(rows, seeds))}
        text = '\n'.join(['', title, section['table'].to_string(), *section['notes']])
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        picture = png(draw(rows, title))
        name = title.replace(': ', '_').replace('/', '_')
        (folder / f'{name}.png').write_bytes(picture)
        alt = f'Seeds and differences of {title}, as in the table above'
        sections.append({**section, 'picture': embedded(picture, alt)})
    results.to_json(folder / 'results.json', orient='records', indent=2, double_precision=15)
    body = render('report.html', sections=sections, command=command, min_seeds=MIN_SEEDS)
    (folder / 'report.html').write_text(page('Comparison of smoothings', body))
