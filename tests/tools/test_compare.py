# SPDX-License-Identifier: Apache-2.0
"""The comparison over seeds, on trainings of a few iterations."""

import fcntl
import json
import os
import re
import signal
import time

import numpy as np
import pytest
from PIL import Image

from se_mm.evaluation.paired import paired_difference
from se_mm.home import HOME as ROOT

SHRUNK = [
    'train_dataloader.batch_size=4',
    'train_dataloader.batch_sampler.mu=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
]
CONFIG = ROOT / 'configs/fixmatch/fixmatch_tma_conv4_1xb32_digits-2.py'
METRIC = 'teacher/accuracy/top1'
MATRIX = ('--smoothing', 'tma', 'sts', '--keep-prob', 0.5, '--momentum', 0.05)
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
    """Folder of each run -> how often it was begun, by MMEngine's folders of logs."""
    return {
        str(path.parent.relative_to(folder)): len(list(path.parent.glob('*/vis_data')))
        for path in folder.glob('**/run.json')
        if '.old-' not in path.parent.name  # Killed in its last evaluation, and set aside.
    }


@pytest.fixture(scope='module')
def compared(tmp_path_factory, tools_in):
    """Tools in a folder in which a matrix of twelve runs was killed half way, and gone on with."""
    tools = tools_in(tmp_path_factory.mktemp('compared'))
    (tools.folder / 'study.py').write_text(STUDY)
    tools.words = ('study.py', '--work-dir', 'compared')
    folder = tools.folder / 'compared'
    process = tools.start('compare.py', *tools.words)
    while len(list(folder.glob('**/metrics.json'))) < 6:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    # Not even told: what it has begun is left behind.
    process.send_signal(signal.SIGKILL)
    process.communicate()
    tools.complete = {
        str(path.parent.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.glob('**/metrics.json')
    }
    tools.output = tools.succeed('compare.py', *tools.words)
    return tools


def test_matrix_killed_half_way_goes_on_without_a_run_lost_or_done_twice(compared):
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
    assert [found['metric'] for found in results] == [METRIC, 'student/accuracy/top1']
    cells = {cell['name']: cell for cell in results[0]['cells']}
    assert list(cells) == [
        'TMA momentum 0.05',
        'STS keep_prob 0.5 momentum 0.05',
        'STS keep_prob 0.5 momentum 0.05 channel',
        'TMA momentum 0.025',
    ]
    values = {}
    for name, cell in cells.items():
        values[name] = {int(seed): value for seed, value in cell['values'].items()}
        assert sorted(values[name]) == [0, 1, 2]
        for seed, value in values[name].items():
            run = folder / 'digits' / name.replace(' ', '_') / f'seed{seed}'
            path = max(run.glob('*/vis_data/scalars.json'))
            assert json.loads(path.read_text().splitlines()[-1])[METRIC] == value
            assert json.loads((run / 'split.json').read_text())['seed'] == seed
        assert cell['mean'] == pytest.approx(np.mean(list(values[name].values())))
    for name in list(cells)[1:3]:
        found = paired_difference(values[name], values['TMA momentum 0.025'])
        difference = cells[name]['matched_difference']
        assert difference['from'] == 'TMA momentum 0.025'
        assert difference['mean'] == pytest.approx(found.mean)
        assert difference['interval'] == pytest.approx(found.interval)


def test_report_has_the_table_the_pictures_and_the_command(compared):
    folder = compared.folder / 'compared'
    page, tables = (folder / 'report.html').read_text(), (folder / 'report.md').read_text()
    for text in (page, tables):
        assert 'compare.py study.py --work-dir compared' in text
        assert 'Bootstrap intervals over 3 seeds are too narrow' in text
    assert tables.count('| STS keep_prob 0.5 momentum 0.05 channel |') == 2
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for picture in folder.glob('*.png'):
        with Image.open(picture) as image:
            assert min(image.size) > 300
    assert len(list(folder.glob('*.png'))) == 2


def test_page_opens_without_network_and_without_errors(compared, open_page):
    page = open_page(compared.folder / 'compared/report.html')
    assert page.title == 'Comparison of smoothings' and page.lang == 'en'
    assert page.errors == page.requests == []
    assert [drawn for drawn, alt in page.images if alt] == [True, True]
    assert 'STS keep_prob 0.5 momentum 0.05 channel' in page.text
    assert not open_page(compared.folder / 'compared/report.html', width=400).overflows


def test_one_seed_has_no_interval_and_it_says_why(compared):
    output = compared.succeed('compare.py', *compared.words, '--seeds', 1, '--no-train')
    text = ' '.join(output.split())
    assert 'No intervals with a single seed' in text
    assert ' to +' not in text and ' to -' not in text
    (cells,) = json.loads((compared.folder / 'compared/results.json').read_text())[:1]
    differences = [cell['difference'] for cell in cells['cells']][1:]
    assert {(d['interval'], d['verdict']) for d in differences} == {(None, 'one seed cannot tell')}


def test_command_line_makes_the_same_matrix_as_a_study(compared):
    folder = compared.folder
    words = (CONFIG, *MATRIX, '--work-dir', 'again', '--seeds', 0, '--cfg-options', *SHRUNK)
    compared.succeed('compare.py', *words)
    (results,) = json.loads((folder / 'again/results.json').read_text())
    assert [cell['name'] for cell in results['cells']] == [
        'TMA momentum 0.05',
        'STS keep_prob 0.5 momentum 0.05',
        'TMA momentum 0.025',
    ]
    for cell in results['cells']:
        of_study = (
            folder / 'compared/digits' / cell['name'].replace(' ', '_') / 'seed0/metrics.json'
        )
        assert json.loads(of_study.read_text())['metrics'][METRIC] == cell['values']['0']


def test_metric_that_no_run_reported_is_told_with_those_there_are(compared):
    words = (*compared.words, '--no-train', '--metric', 'teacher/acuracy/top1')
    line = compared.fail('compare.py', *words)
    assert "got 'teacher/acuracy/top1'" in line
    assert f'Did you mean {METRIC!r}?' in line


def test_work_dir_in_use_is_left_alone(compared):
    with (compared.folder / 'compared/compare.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = compared.fail('compare.py', *compared.words)
    assert 'is in use by another comparison' in line


def test_each_run_is_a_job_where_slurm_is_asked_for(tools, monkeypatch):
    # Where there is no cluster: what it would be told, and then the training itself.
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
        ((CONFIG, '--smoothing', 'tma', '--keep-prob', 0.5), 'keep_prob must be left out for'),
        ((CONFIG, '--smoothing', 'se', '--keep-prob', 1.5), 'a number in [0, 1), got 1.5'),
        ((CONFIG, '--keep-prob', 0.5), 'smoothing must be set'),
        ((CONFIG, '--seeds', 1, 1), 'seeds must be unique, got [1, 1]'),
        ((CONFIG, '--seeds', -1), 'seeds must be an integer >= 0, got -1'),
        ((CONFIG, '--jobs', 0), '--jobs must be an integer >= 1, got 0'),
        ((CONFIG, '--work-dir', '/proc/x'), "must be a writable folder, got '/proc/x'"),
        ((CONFIG, '--no-train'), 'has no completed run to compare'),
        (('wrong.py',), "wrong.py has no option 'matrx'"),
        (('no_seeds.py',), 'no_seeds.py must set seeds'),
        (('key.py',), "matrix[1] has no option 'granularty'"),
    ],
    ids=lambda value: None if isinstance(value, str) else ' '.join(map(str, value[-2:]))[-20:],
)
def test_what_is_wrong_is_one_line_before_anything_is_trained(tools, words, message):
    (tools.folder / 'no_seeds.py').write_text(STUDY.replace('seeds = [0, 1, 2]', ''))
    (tools.folder / 'wrong.py').write_text(STUDY + '\nmatrx = []\n')
    (tools.folder / 'key.py').write_text(STUDY.replace('granularity', 'granularty'))
    line = tools.fail('compare.py', *words)
    assert message in line
    assert not list(tools.folder.glob('**/run.json'))
