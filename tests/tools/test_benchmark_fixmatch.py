# SPDX-License-Identifier: Apache-2.0
"""The speed comparison: what it refuses, and that it measures. Nothing is expected of the speed."""

import json
import os
import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools/benchmark_fixmatch.py'
TINY = (
    *('--depth', 10, '--width', 1, '--batch-size', 2, '--mu', 2, '--iters', 2, '--warm-up', 1),
    *('--workers', 0, '--threads', 1),
)
CLONES = {'kekmodel': 'KEKMODEL_FIXMATCH', 'torchssl': 'TORCHSSL_FIXMATCH'}


def test_somebody_to_compare_with_is_needed(tools):
    status, _, errors = tools.run('benchmark_fixmatch.py')
    assert status == 2
    assert 'set --kekmodel, --torchssl or both' in errors


def test_folder_that_is_no_clone_is_refused(tools):
    status, _, errors = tools.run('benchmark_fixmatch.py', '--kekmodel', tools.folder)
    assert status == 2
    assert 'must be a clone of kekmodel' in errors and 'without dataset/cifar.py' in errors


@pytest.mark.parametrize(
    'option, message',
    [
        (('--rounds', 0), '--rounds must be an integer >= 1, got 0'),
        (('--depth', 11), '--depth must be 4 more than a multiple of 6 and >= 10, got 11'),
        (('--data-root', 'nowhere'), "must have cifar-10-batches-py, got 'nowhere'"),
    ],
    ids=str,
)
def test_wrong_option_is_refused(tools, option, message):
    status, _, errors = tools.run('benchmark_fixmatch.py', '--kekmodel', 'x', *option)
    assert status == 2
    assert message in errors


@pytest.mark.parametrize('views', [(), ('--views',)], ids=['iterations', 'views'])
def test_ours_is_measured(tools, views):
    runpy.run_path(str(TOOL))['write_cifar10'](tools.folder, 100)
    words = ('se_mm', '--data-root', tools.folder, '--scratch', tools.folder / 'x')
    output = tools.succeed('fixmatch_contestants.py', *words, *TINY, *views)
    assert json.loads(output.splitlines()[-1]) > 0


@pytest.mark.parametrize('peer', CLONES)
def test_peer_is_measured(tools, peer):
    folder = os.environ.get(CLONES[peer])
    if not folder:
        pytest.skip(f'{CLONES[peer]} names no clone of {peer}')
    words = (f'--{peer}', folder, '--out', 'table.md', '--rounds', 1, *TINY)
    assert 'of the faster peer' in tools.succeed('benchmark_fixmatch.py', *words)
    table = (tools.folder / 'table.md').read_text()
    (row,) = [
        line for line in table.split('unlabelled')[0].splitlines() if f'| {peer}' in line.lower()
    ]
    assert row.split('|')[-2].strip() == '1.00'
