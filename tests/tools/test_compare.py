# SPDX-License-Identifier: Apache-2.0
"""The comparison over seeds, on trainings of a few iterations."""

import json
import runpy

import numpy as np
import pytest
from scipy import stats

from se_mm.evaluation import runs as runs_module

ROOT = runs_module.ROOT
SHRUNK = [
    'train_dataloader.batch_size=4',
    'train_dataloader.batch_sampler.mu=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
]
CONFIGS = [ROOT / f'configs/fixmatch_{name}_conv4_1xb32_digits-2.py' for name in ('tma', 'se')]


@pytest.fixture(scope='module')
def compared(tmp_path_factory, tools_in):
    """Tools in a folder in which two configs were compared over two seeds, to ``compared``."""
    tools = tools_in(tmp_path_factory.mktemp('compared'))
    tools.words = (*CONFIGS, '--seeds', 3, 4, '--work-dir', 'compared', '--cfg-options', *SHRUNK)
    tools.output = tools.succeed('compare.py', *tools.words)
    return tools


def test_table_has_the_metrics_that_the_runs_logged(compared):
    results = json.loads((compared.folder / 'compared/results.json').read_text())
    assert results['seeds'] == [3, 4]
    assert list(results['values']) == [path.stem for path in CONFIGS]
    for name, values in results['values'].items():
        for seed, value in zip((3, 4), values):
            folder = compared.folder / 'compared' / name / f'seed{seed}'
            (path,) = folder.glob('*/vis_data/scalars.json')
            last = json.loads(path.read_text().splitlines()[-1])
            assert last['teacher/accuracy/top1'] == value
            assert json.loads((folder / 'split.json').read_text())['seed'] == seed
        mean = f'{np.mean(values):.2f}'
        table = (compared.folder / 'compared/results.md').read_text().splitlines()
        (row,) = [line for line in table if line.startswith(f'| {name} ')]
        assert row.split(' | ')[2] == mean


def test_complete_runs_are_not_repeated(compared):
    output = compared.succeed('compare.py', *compared.words)
    assert output.count('complete already') == 4
    assert 'started' not in output


def test_difference_and_interval_are_of_the_pairs():
    tool = runpy.run_path(str(ROOT / 'tools/compare.py'))
    first, second = [90.0, 80.0, 85.0], [91.0, 82.0, 85.5]
    rows = tool['rows_of']({'a': first, 'b': second})
    result = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert rows[0] == ['a', '3', '85.00', '5.00', '', '']
    assert rows[1][4] == '+1.17'
    assert rows[1][5] == f'{result.low:+.2f} to {result.high:+.2f}'


@pytest.mark.parametrize(
    'words, message',
    [
        (('nowhere.py',), "config='nowhere.py' does not exist"),
        ((CONFIGS[0], CONFIGS[0]), 'has the name of another config'),
    ],
    ids=['missing', 'twice'],
)
def test_wrong_config_is_refused(tools, words, message):
    status, output, errors = tools.run('compare.py', *words)
    assert status == 2
    assert message in ' '.join(output.split())
    assert 'Traceback' not in output + errors
