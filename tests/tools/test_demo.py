# SPDX-License-Identifier: Apache-2.0
"""The demo, shrunk to a few iterations on a few images."""

import json
import os
import signal
import time

import pytest
import torch
from PIL import Image

import se_mm  # noqa: F401 -- makes checkpoints loadable

SHRUNK = ['train_dataloader.batch_size=16', 'default_hooks.logger.interval=1']
SHRUNK += ['randomness.seed=3']
LABELS, NO_LABELS = (
    ['labels alone', 'FixMatch, TMA', 'FixMatch, SE', 'FixMatch, STS'],
    ['untrained', 'BYOL, TMA', 'BYOL, SE', 'BYOL, STS'],
)
FOLDERS = [
    'labels-alone',
    'fixmatch-tma',
    'fixmatch-se',
    'fixmatch-sts',
    'untrained',
    'byol-tma',
    'byol-se',
    'byol-sts',
]


def arguments(work_dir, *options, iters=4):
    return '--work-dir', work_dir, '--iters', iters, '--cfg-options', *SHRUNK, *options


def children_of(pid):
    """Process ids of the living children of a process."""
    children = []
    for folder in os.listdir('/proc'):
        try:
            with open(f'/proc/{folder}/stat') as file:
                state, parent = file.read().rsplit(')', 1)[1].split()[:2]
        except (OSError, IndexError):
            continue
        if int(parent) == pid and state != 'Z':
            children.append(int(folder))
    return children


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'it did not happen'
        time.sleep(0.1)


@pytest.fixture(scope='module')
def demo(tmp_path_factory, tools_in):
    """Tools in a folder in which the demo ran, to ``demo``."""
    tools = tools_in(tmp_path_factory.mktemp('demo'))
    tools.output = tools.succeed('demo.py', *arguments('demo'))
    return tools


def test_tables_have_every_training(demo):
    results = json.loads((demo.folder / 'demo/results.json').read_text())
    assert [list(part) for part in results.values()] == [LABELS, NO_LABELS]
    written = (demo.folder / 'demo/results.md').read_text()
    for part in results.values():
        for name, metrics in part.items():
            assert len(metrics) == 2
            assert all(0 <= value <= 100 for value in metrics.values())
            shown = [f'{value:.1f}' for value in metrics.values()]
            for text in (written, demo.output):
                (row,) = [line for line in text.splitlines() if line.startswith(f'| {name} ')]
                assert [cell.strip() for cell in row.split('|')[2:-1]] == shown


def test_weights_of_the_untrained_network_alone_are_those_of_its_teacher(demo):
    def same(run):
        (path,) = demo.folder.glob(f'demo/{run}-*/iter_4.pth')
        weights = torch.load(path, map_location='cpu')['state_dict']
        name = 'backbone.layers.3.0.weight'
        return torch.equal(weights[name], weights[f'target_net.module.0.{name[9:]}'])

    assert [same(run) for run in FOLDERS[4:]] == [True, False, False, False]


def test_picture_of_the_table_is_written(demo):
    with Image.open(demo.folder / 'demo/results.png') as picture:
        assert picture.format == 'PNG'
        assert min(picture.size) > 400
        assert len(picture.convert('RGB').getcolors(1 << 20)) > 50


def test_it_says_that_one_seed_decides_nothing(demo):
    for text in (demo.output, (demo.folder / 'demo/results.md').read_text()):
        text = ' '.join(text.split())
        assert 'with seed 3' in text and 'does not decide which of them is better' in text


def test_complete_runs_are_not_repeated(demo):
    logs = [log for name in FOLDERS for log in demo.folder.glob(f'demo/{name}-*/log.txt')]
    assert len(logs) == 8
    before = [log.stat().st_mtime_ns for log in logs]
    output = demo.succeed('demo.py', *arguments('demo'))
    assert '8 of 8 runs are already complete' in output
    assert [log.stat().st_mtime_ns for log in logs] == before
    assert 'started' not in output


@pytest.fixture(scope='module')
def failed(tmp_path_factory, tools_in):
    """Tools in a folder in which the demo failed."""
    tools = tools_in(tmp_path_factory.mktemp('failed'))
    wrong = 'custom_hooks.0.keep_prob=2'
    tools.status, _, tools.errors = tools.run('demo.py', *arguments('.', wrong))
    return tools


def test_failing_run_shows_the_end_of_its_log(failed):
    assert failed.status == 1
    assert 'ended with status 2' in failed.errors
    assert 'keep_prob must be a number in [0, 1), got 2' in failed.errors
    assert 'Traceback' not in failed.errors
    assert not (failed.folder / 'results.json').exists()


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='needs /proc')
@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM], ids=['Ctrl-C', 'kill'])
def test_interrupted_demo_leaves_no_training_behind(tools, sign):
    process = tools.start('demo.py', *arguments('.', iters=1000))
    try:
        wait_for(lambda: list(tools.folder.glob('*/*/vis_data/scalars.json')))
        children = children_of(process.pid)
        assert children
        # The demo alone gets it, as by `kill`; a terminal would tell the trainings as well.
        process.send_signal(sign)
        output, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130
    assert 'run the same command again' in output
    assert 'Traceback' not in output + errors
    wait_for(lambda: not any(alive(child) for child in children), seconds=20)


def test_no_iterations_are_refused(tools):
    line = tools.fail('demo.py', '--iters', 0, '--work-dir', 'demo')
    assert '--iters must be an integer >= 1, got 0' in line
