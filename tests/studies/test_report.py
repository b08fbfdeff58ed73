# SPDX-License-Identifier: Apache-2.0
"""What a report says of results, without trainings: test_compare.py has those."""

import io
import json
import re
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from rich.console import Console

from se_mm.studies.comparison import compare
from se_mm.studies.matrix import Cell
from se_mm.studies.report import draw, table, write_report
from se_mm.studies.study import Study

CELLS = [
    Cell(name, Config(), None, control)
    for name, control in {
        'none': None,
        'TMA momentum 0.05': None,
        'SE keep_prob 0.95': 'TMA momentum 0.05',
        'STS <0.5>': 'TMA momentum 0.025',
        'TMA momentum 0.025': None,
    }.items()
]


@pytest.fixture
def results():
    """Eight seeds, in each of which every cell is above the one before by 1; one is missing."""
    study = Study({'4-labels': CELLS}, list(range(8)), ['top1', 'share'])
    runs = {
        ('4-labels', cell.name, seed): SimpleNamespace(
            metrics={'top1': 50.0 + seed + place, 'share': 0.5, 'other': 1.0}
        )
        for seed in study.seeds
        for place, cell in enumerate(CELLS)
    }
    runs['4-labels', 'none', 3].metrics = None
    return compare(study, runs)


def test_each_cell_is_compared_with_the_reference_and_its_control(results):
    rows = results[results['metric'] == 'top1'].set_index('cell')
    assert rows['reference'].unique() == ['TMA momentum 0.05']
    assert rows['difference'].drop('TMA momentum 0.05').tolist() == [-1, 1, 2, 3]
    assert rows['verdict'].tolist() == ['lower', '', 'higher', 'higher', 'higher']
    assert rows['matched_difference'].dropna().to_dict() == {
        'SE keep_prob 0.95': 1.0,
        'STS <0.5>': -1.0,
    }
    assert sorted(rows.loc['none', 'values']) == [0, 1, 2, 4, 5, 6, 7]


def test_table_has_decimals_that_fit_the_metric(results):
    percent, share = (table(rows) for _, rows in results.groupby('metric', sort=False))
    assert percent.loc['STS <0.5>'].tolist() == [
        8,
        '56.5',
        '2.4',
        '+2.0 (+2.0 to +2.0): higher',
        '-1.0 (-1.0 to -1.0): lower',
    ]
    assert percent.loc['TMA momentum 0.05 (reference)', 'difference from the reference'] == ''
    assert share.loc['none', 'mean'] == '0.500'


def test_page_is_one_file_and_what_comes_from_outside_is_escaped(results, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    write_report(results, range(8), 'compare.py "<a>"', tmp_path, console)
    page = (tmp_path / 'report.html').read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.findall(r'(?:src|href)="(?!data:)|@import|url\(|<script', page)
    assert 'STS &lt;0.5&gt;' in page and '<0.5>' not in page and '<a>' not in page
    assert 'Missing runs of none: seed 3.' in page and 'Missing runs' in console.file.getvalue()
    rows = json.loads((tmp_path / 'results.json').read_text())
    assert [row['cell'] for row in rows] == [cell.name for cell in CELLS] * 2
    assert sorted(path.name for path in tmp_path.glob('*.png')) == [
        '4-labels_share.png',
        '4-labels_top1.png',
    ]


def test_picture_has_a_dot_for_each_seed_and_an_interval_for_each_difference(results):
    left, right = draw(results[results['metric'] == 'top1'], 'title').axes
    assert sum(len(line.get_xdata()) for line in left.lines[:5]) == 39
    assert [text.get_text() for text in left.get_yticklabels()] == [cell.name for cell in CELLS]
    assert right.get_xlabel() == 'difference in the mean, 95 % interval'
    assert len(right.collections) == 2
