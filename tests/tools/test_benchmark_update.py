# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of the update and of the iteration, with next to nothing to time."""

import re

import pytest

from se_mm.smoothing import GRANULARITIES


def rows(output):
    """First cell of each row of the tables -> the other cells."""
    table = re.findall(r'^\| (.*) \|$', output, re.MULTILINE)
    cells = [[cell.strip() for cell in row.split('|')] for row in table]
    return {first: others for first, *others in cells}


def test_update_table_has_all_that_take_part_and_their_ratios(tools):
    pytest.importorskip('mmdet')
    table = rows(tools.succeed('benchmark_update.py', '--networks', 'byol_r50', '--updates', 3))
    names = [f'{name}, {granularity}' for name in ('SE', 'STS') for granularity in GRANULARITIES]
    stock = ['mmpretrain CosineEMA', 'mmdet MeanTeacherHook', 'torch AveragedModel, foreach']
    for name in (*names, *stock, 'one flat lerp', 'TMA (SETMAHook, keep_prob=0)'):
        milliseconds, to_mmengine, to_lerp, _ = table[name]
        assert float(milliseconds) > 0
        assert float(to_mmengine) > 0 and float(to_lerp) > 0
    assert table['mmengine ExponentialMovingAverage'][1] == '1.00'
    # That memory does not grow with the model is no matter of the machine.
    for name in names:
        assert float(table[name][3].rstrip('%')) < 5


@pytest.mark.parametrize(
    'method, stock',
    [('byol', "stock config (mmpretrain's CosineEMA)"), ('fixmatch', "mmengine's EMAHook")],
)
def test_iteration_table_has_all_that_take_part(tools, method, stock):
    few = ('--iters', 1, '--turns', 1, '--warm-up', 1, '--threads', 1)
    options = (*few, '--method', method, '--batch-size', 2, '--size', 32)
    table = rows(tools.succeed('benchmark_iteration.py', *options))
    assert table[stock][1] == '1.000'
    for name in ('no teacher update', 'TMA (SETMAHook, keep_prob=0)', 'SE', 'STS'):
        assert float(table[name][0]) > 0


@pytest.mark.parametrize(
    'tool, options, said',
    [
        ('benchmark_update.py', ('--updates', 0), '--updates must be an integer >= 1, got 0'),
        (
            'benchmark_update.py',
            ('--keep-prob', 1),
            '--keep-prob must be a number in [0, 1), got 1',
        ),
        ('benchmark_iteration.py', ('--turns', 0), '--turns must be an integer >= 1, got 0'),
    ],
)
def test_impossible_options_are_refused_in_one_line(tools, tool, options, said):
    status, _, errors = tools.run(tool, *options)
    assert status == 2
    assert said in errors and 'Traceback' not in errors
