# SPDX-License-Identifier: Apache-2.0
"""The comparison over seeds, on trainings of a few iterations."""

import json
import os
import re
import signal
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from se_mm.home import HOME as ROOT
from se_mm.studies.comparison import paired_difference
from tests.launched import SHRUNK

CONFIG = ROOT / 'configs/fixmatch/fixmatch_tma_conv4_1xb32_digits-2.py'
METRIC = 'teacher/accuracy/top1'
MATRIX = ('--smoothing', 'tma', 'sts', '--keep-prob', 0.5, '--momentum', 0.05)
MATRIX += ('--granularity', 'tensor')
STUDY = f"""
configs = dict(digits={str(CONFIG)!r})
matrix = [
    dict(smoothing='tma', momentum=0.05),
    dict(smoothing='sts', momentum=0.05, keep_prob=0.5, granularity=['tensor', 'channel']),
]
seeds = [0, 1, 2]
metrics = ['{METRIC}', 'student/accuracy/top1']
cfg_options = dict([option.split('=') for option in {SHRUNK!r}])
cfg_options = {{key: eval(value) for key, value in cfg_options.items()}}
"""


def runs_in(folder):
    """Folder of each run -> number of its starts, as MMEngine's folders of logs show."""
    return {
        str(path.parent.relative_to(folder)): len(list(path.parent.glob('*/vis_data')))
        for path in folder.glob('**/log.txt')
    }


@pytest.fixture(scope='module')
def compared(tmp_path_factory, tools_in):
    """Tools in a folder in which a matrix of twelve runs was killed half way and continued."""
    tools = tools_in(tmp_path_factory.mktemp('compared'))
    (tools.folder / 'study.py').write_text(STUDY)
    tools.words = ('study.py', '--work-dir', 'compared')
    folder = tools.folder / 'compared'
    process = tools.start('compare.py', *tools.words)
    while len(list(folder.glob('**/metrics.json'))) < 6:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    # It cannot handle this signal: what it has begun is left behind.
    process.send_signal(signal.SIGKILL)
    process.communicate()
    tools.complete = {
        str(path.parent.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.glob('**/metrics.json')
    }
    tools.output = tools.succeed('compare.py', *tools.words)
    return tools


def test_matrix_killed_half_way_continues_without_a_run_lost_or_made_twice(compared):
    folder = compared.folder / 'compared'
    begun = runs_in(folder)
    assert len(begun) == 12
    done = {
        str(path.parent.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.glob('**/metrics.json')
    }
    assert set(done) == set(begun)
    assert 6 <= len(compared.complete) < 12
    assert f'{len(compared.complete)} of 12 runs are already complete' in compared.output
    assert {name: done[name] for name in compared.complete} == compared.complete
    assert all(begun[name] == 1 for name in compared.complete)
    assert compared.output.count(': started') == 12 - len(compared.complete)


def test_results_are_what_the_runs_logged_pair_by_pair(compared):
    folder = compared.folder / 'compared'
    results = json.loads((folder / 'results.json').read_text())
    assert [row['metric'] for row in results] == [METRIC] * 4 + ['student/accuracy/top1'] * 4
    rows = {row['cell']: row for row in results[:4]}
    assert list(rows) == [
        'TMA momentum 0.05',
        'STS keep_prob 0.5 momentum 0.05 granularity tensor',
        'STS keep_prob 0.5 momentum 0.05 granularity channel',
        'TMA momentum 0.025',
    ]
    values = {}
    for name, row in rows.items():
        values[name] = pd.Series({int(seed): value for seed, value in row['values'].items()})
        assert sorted(values[name].index) == [0, 1, 2]
        for seed, value in values[name].items():
            (run,) = folder.glob(f'digits/{name.replace(" ", "_")}-*/seed{seed}')
            path = max(run.glob('*/vis_data/scalars.json'))
            assert json.loads(path.read_text().splitlines()[-1])[METRIC] == value
            assert json.loads((run / 'split.json').read_text())['seed'] == seed
        assert row['mean'] == pytest.approx(np.mean(values[name]))
    for name in list(rows)[1:3]:
        found = paired_difference(values[name], values['TMA momentum 0.025'])
        assert rows[name]['control'] == 'TMA momentum 0.025'
        for key in ('difference', 'low', 'high'):
            assert rows[name][f'matched_{key}'] == pytest.approx(found[key])


def test_report_has_the_table_the_pictures_and_the_command(compared):
    folder = compared.folder / 'compared'
    page = (folder / 'report.html').read_text()
    assert 'compare.py study.py --work-dir compared' in page
    for text in (page, compared.output):
        assert 'Bootstrap intervals over 3 seeds are too narrow' in text
        assert text.count('STS keep_prob 0.5 momentum 0.05 granularity channel') >= 2
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for picture in folder.glob('*.png'):
        with Image.open(picture) as image:
            assert min(image.size) > 300
    assert len(list(folder.glob('*.png'))) == 2


def test_page_explains_itself(compared):
    page = ' '.join((compared.folder / 'compared/report.html').read_text().split())
    for word in ('TMA', 'SE', 'STS', 'Matched TMA'):
        assert f'<b>{word}</b>:' in page
    for word in ('teacher', 'student', 'seed', 'interval', 'cannot tell', 'log.txt'):
        assert word in page


def test_page_opens_without_network_and_without_errors(compared, open_page):
    page = open_page(compared.folder / 'compared/report.html')
    assert page.title == 'Comparison of smoothings' and page.lang == 'en'
    assert page.errors == page.requests == []
    assert [drawn for drawn, alt in page.images if alt] == [True, True]
    assert 'STS keep_prob 0.5 momentum 0.05 granularity channel' in page.text
    assert not open_page(compared.folder / 'compared/report.html', width=400).overflows


def test_one_seed_has_no_interval_and_it_says_why(compared):
    output = compared.succeed('compare.py', *compared.words, '--seeds', 1, '--no-train')
    text = ' '.join(output.split())
    assert 'No intervals with a single seed' in text
    assert ' to +' not in text and ' to -' not in text
    rows = json.loads((compared.folder / 'compared/results.json').read_text())
    found = {(row['low'], row['verdict']) for row in rows if row['cell'] != row['reference']}
    assert found == {(None, '1 seeds cannot tell')}


def test_command_line_makes_the_same_matrix_as_a_study(compared):
    folder = compared.folder
    words = (CONFIG, *MATRIX, '--work-dir', 'again', '--seeds', 0, '--cfg-options', *SHRUNK)
    compared.succeed('compare.py', *words)
    rows = json.loads((folder / 'again/results.json').read_text())
    assert [row['cell'] for row in rows] == [
        'TMA momentum 0.05',
        'STS keep_prob 0.5 momentum 0.05 granularity tensor',
        'TMA momentum 0.025',
    ]
    for row in rows:
        name = row['cell'].replace(' ', '_')
        # Of the same config, so of the same name.
        (of_study,) = folder.glob(f'compared/digits/{name}-*/seed0/metrics.json')
        (own,) = folder.glob(f'again/*/{name}-*/seed0/metrics.json')
        assert own.parents[1].name == of_study.parents[1].name
        assert json.loads(of_study.read_text())['metrics'][METRIC] == row['values']['0']


def test_another_setup_of_the_same_name_gets_another_folder(compared):
    folder = compared.folder / 'compared'
    before = {path: path.read_bytes() for path in folder.glob('**/metrics.json')}
    words = ('--smoothing', 'tma', '--momentum', 0.05, '--seeds', 0, '--cfg-options', *SHRUNK)
    (compared.folder / 'digits.py').write_text(f'_base_ = {str(CONFIG)!r}')
    words = ('digits.py', '--work-dir', 'compared', *words, 'optim_wrapper.optimizer.lr=0.01')
    output = compared.succeed('compare.py', *words)
    assert '0 of 1 runs are already complete' in output
    after = {path: path.read_bytes() for path in folder.glob('**/metrics.json')}
    assert len(after) == len(before) + 1 and before.items() <= after.items()
    # Another text of the same setup is the same: nothing is trained again.
    (compared.folder / 'digits.py').write_text(f'# Mine.\n_base_ = [\n    {str(CONFIG)!r},\n]')
    assert '1 of 1 runs are already complete' in compared.succeed('compare.py', *words)


def test_run_killed_in_its_last_evaluation_is_evaluated_and_not_trained_again(tools):
    words = (
        CONFIG,
        '--smoothing',
        'tma',
        '--seeds',
        0,
        '--work-dir',
        '.',
        '--cfg-options',
        *SHRUNK,
    )
    tools.succeed('compare.py', *words)
    (metrics,) = tools.folder.glob('**/metrics.json')
    found = json.loads(metrics.read_text())['metrics']
    (first,) = metrics.parent.glob('*/vis_data/scalars.json')
    # As the kill would leave it: trained and saved, but neither evaluated nor complete.
    lines = first.read_text().splitlines(keepends=True)
    first.write_text(''.join(line for line in lines if '"loss"' in line))
    metrics.rename(tools.folder / 'first.json')
    checkpoint = metrics.with_name('iter_2.pth').stat().st_mtime_ns
    assert '0 of 1 runs are already complete' in tools.succeed('compare.py', *words)
    assert json.loads(metrics.read_text())['metrics'] == found
    assert metrics.with_name('iter_2.pth').stat().st_mtime_ns == checkpoint
    (_, second) = sorted(metrics.parent.glob('*/vis_data/scalars.json'))
    assert '"loss"' not in second.read_text()


def test_metric_that_no_run_reported_is_refused_with_a_suggestion(compared):
    words = (*compared.words, '--no-train', '--metric', 'teacher/acuracy/top1')
    line = compared.fail('compare.py', *words)
    assert "got 'teacher/acuracy/top1'" in line
    assert f'Did you mean {METRIC!r}?' in line


def test_slurm_option_submits_each_run_as_a_job(tools, monkeypatch):
    # Without a cluster: note the options of srun, and run the training itself.
    srun = tools.folder / 'srun'
    srun.write_text(
        '#!/bin/sh\necho "$@" >> jobs\nwhile [ "$1" != "${PYTHON:-python}" ]; do shift; done\n'
        'exec $(echo "$@" | sed "s/--launcher slurm//")\n'
    )
    srun.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tools.folder}:{os.environ["PATH"]}')
    monkeypatch.setenv('GPUS', '1')
    words = (CONFIG, '--slurm', 'vision', '--seeds', 0, 1, '--cfg-options', *SHRUNK)
    output = tools.succeed('compare.py', *words)
    jobs = (tools.folder / 'jobs').read_text().splitlines()
    assert len(jobs) == 2
    assert all(job.startswith('-p vision --job-name=compare --gres=gpu:') for job in jobs)
    assert {re.search(r'randomness.seed=(\d)', job).group(1) for job in jobs} == {'0', '1'}
    assert 'fixmatch_tma_conv4_1xb32_digits-2' in output


@pytest.mark.parametrize(
    'words, message',
    [
        (('nowhere.py',), "config file 'nowhere.py' does not exist"),
        ((CONFIG, CONFIG), 'configs must have distinct names'),
        ((CONFIG, '--smoothing', 'tma', '--keep-prob', 0.5), 'keep_prob is no option of'),
        ((CONFIG, '--smoothing', 'se', '--keep-prob', 1.5), 'a number in [0, 1), got 1.5'),
        ((CONFIG, '--keep-prob', 0.5), 'smoothing must be one of'),
        ((CONFIG, '--no-train'), 'has no completed run to compare'),
        (('wrong.py',), "wrong.py has no option 'matrx'"),
        (('no_seeds.py',), 'a study must set seeds'),
        (('key.py',), "matrix has no option 'granularty'"),
    ],
    ids=lambda value: None if isinstance(value, str) else ' '.join(map(str, value[-2:]))[-20:],
)
def test_what_is_wrong_is_one_line_before_anything_is_trained(tools, words, message):
    (tools.folder / 'no_seeds.py').write_text(STUDY.replace('seeds = [0, 1, 2]', ''))
    (tools.folder / 'wrong.py').write_text(STUDY + '\nmatrx = []\n')
    (tools.folder / 'key.py').write_text(STUDY.replace('granularity', 'granularty'))
    line = tools.fail('compare.py', *words)
    assert message in line
    assert not list(tools.folder.glob('**/log.txt'))
