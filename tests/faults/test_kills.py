# SPDX-License-Identifier: Apache-2.0
"""Runs killed at random moments, and resumed until they end, equal those that nobody killed.

``SE_MM_FAULTS=full`` makes all hundred; ``SE_MM_FAULT_SEED`` makes others.
"""

import fcntl
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

for package in ('mmpretrain', 'mmdet'):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
from forked import warm  # noqa: E402
from small_runs import (  # noqa: E402
    BATCHES,
    FULL,
    ITERS,
    KINDS,
    PLACES,
    SEED,
    VARIANTS,
    Launch,
    config,
    options_of,
    write_config,
)

CASES = 100
# Of the hundred, those that are started as a user starts them and not by a fork.
REAL = range(9, CASES, 17)
# What is compared of two final checkpoints; time, paths and versions are in their meta.
COMPARED = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'se_mm')
OUTSIDE = ('start-up', 'a moment')
"""Kills by another process, at any moment at all: see ``PLACES`` for the others."""


class Case:
    """What is drawn for a case: the run, and where it is killed, once or several times."""

    def __init__(self, number):
        rng = random.Random(f'{SEED} {number}')
        self.number = number
        # Every kind, on one rank and on two, has its turn in each eight cases.
        self.kind = list(KINDS)[number % 4]
        self.ranks = 1 + number // 4 % 2
        self.variant = list(VARIANTS)[number // 8 % len(VARIANTS)]
        self.forked = number not in REAL
        self.asks_at_once = rng.random() < 0.5
        self.kills = []
        at = 0
        for _ in range(rng.choice((1, 1, 2, 3))):
            where = rng.choice((*PLACES, *OUTSIDE, 'within save', 'within update'))
            at = rng.randrange(at, ITERS - 1)
            rank = rng.randrange(self.ranks)
            if 'save' in where or 'rename' in where or 'removal' in where:
                rank = 0
            self.kills.append(dict(where=where, at=at, rank=rank, delay=rng.random()))

    def name(self):
        return f'case{self.number}'

    def __repr__(self):
        kills = ', '.join(f'{k["where"]} from iteration {k["at"]} on' for k in self.kills)
        return f'case{self.number}: {self.kind} {self.variant} on {self.ranks} ranks: {kills}'


@pytest.fixture(scope='session')
def whole_run(tmp_path_factory):
    """Makes an uninterrupted run of each setup once, for all workers of pytest."""
    warm()
    print(f'SE_MM_FAULT_SEED={SEED}')
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if folder.name.startswith('popen-') else folder) / 'whole'

    def make(kind, variant, ranks):
        name = f'{kind}-{variant}-{ranks}'
        path = write_config(folder / name / 'config.py', config(kind, variant, ranks))
        with (path.parent / 'lock').open('w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (path.parent / 'done').exists():
                launch = Launch(path, path.parent / 'run', ranks, options_of(kind, variant))
                assert launch.wait(), launch.output()
                (path.parent / 'done').touch()
        return path.parent / 'run'

    return make


def checkpoints(work_dir):
    """Number -> path of the checkpoints in a folder."""
    return {int(path.stem.split('_')[1]): path for path in work_dir.glob('[ei]*_[0-9]*.pth')}


def batches(work_dir, rank):
    """The iterations that a rank has begun, in order: each with the digest of its batch."""
    path = work_dir / f'batches.{rank}'
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(iteration), digest) for iteration, digest in map(str.split, lines)]


def killed_as_told(case, kill, work_dir, path, resume, number):
    """Start a run and see it killed.

    Returns:
        False if it came to its end before that.
    """
    note = work_dir.parent / f'killed{number}'
    inside = kill['where'] in PLACES
    at = 0 if kill['where'] in ('load', 'begin') else kill['at']
    told = dict(where=kill['where'], at=at, rank=kill['rank'], note=str(note))
    options = [*options_of(case.kind, case.variant), *(['--resume'] if resume else [])]
    begun = len(batches(work_dir, 0))
    launch = Launch(path, work_dir, case.ranks, options, told if inside else None, case.forked)
    if inside:
        ended = launch.wait()
        assert ended or note.exists(), f'{case}\n{launch.output()}'
        return not ended
    # A fork is on its way within a second, a process of its own after several.
    longest = 1.5 if case.forked else 15
    due = time.monotonic() + longest * kill['delay']

    def moment():
        if kill['where'] == 'start-up':
            return time.monotonic() > due
        return len(batches(work_dir, 0)) > begun + kill['at'] // 2

    if launch.wait(until=moment):
        return False
    assert not any(launch.statuses()), f'{case}\n{launch.output()}'
    if kill['where'] == 'a moment':
        time.sleep(0.1 * kill['delay'])
    ended = launch.statuses() == [0] * len(launch.processes)
    launch.kill()
    return not ended


def assert_same(left, right, where):
    """Assert that two values are the same bit for bit, tensors and all."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f'{where}.{key}')
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for index, (one, other) in enumerate(zip(left, right)):
            assert_same(one, other, f'{where}[{index}]')
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and left.shape == right.shape, where
        bits = left.contiguous().flatten().view(torch.uint8)
        others = right.contiguous().flatten().view(torch.uint8)
        assert torch.equal(bits, others), f'{where}: {(left != right).sum()} numbers differ'
    elif isinstance(left, np.ndarray):
        assert left.tobytes() == right.tobytes(), where
    else:
        assert left == right or (left != left and right != right), where


def assert_same_end(whole, resumed, ranks, where):
    """Assert that two runs have ended with the same checkpoint, and every rank with the same."""
    end = max(checkpoints(whole))
    assert max(checkpoints(resumed)) == end, where
    one, other = (
        torch.load(checkpoints(folder)[end], weights_only=False) for folder in (whole, resumed)
    )
    kept = set(one) - {'meta', 'message_hub'}
    assert set(other) - {'meta', 'message_hub'} == kept, where
    for key in (*COMPARED, *sorted(kept.difference(COMPARED))):
        assert_same(one.get(key), other.get(key), f'{where}: {key}')
    for key in ('iter', 'epoch', 'seed'):
        assert one['meta'][key] == other['meta'][key], f'{where}: {key}'
    for rank in range(ranks):
        held, others = (
            torch.load(folder / f'rank{rank}.pt', weights_only=False) for folder in (whole, resumed)
        )
        assert_same(held, others, f'{where}: rank {rank}')


def assert_same_batches(whole, resumed, ranks, where):
    """Assert that each iteration had the batch it should have, and none was left out."""
    for rank in range(ranks):
        should = dict(batches(whole, rank))
        assert list(should) == list(range(len(should))) and should
        seen = batches(resumed, rank)
        wrong = [iteration for iteration, digest in seen if should[iteration] != digest]
        assert not wrong, f'{where}: rank {rank} had other batches in iterations {wrong}'
        assert {iteration for iteration, _ in seen} == set(should), where
        last = -1
        for iteration, _ in seen:
            assert iteration <= last + 1, f'{where}: rank {rank} left out iterations'
            last = iteration
        assert last == max(should), where


def assert_nothing_lost(work_dir, interval, where):
    """Assert that the checkpoints of a killed run are whole, and the newest is there."""
    for path in checkpoints(work_dir).values():
        torch.load(path, weights_only=False)
    begun = batches(work_dir, 0)
    finished = begun[-1][0] // interval * interval if begun else 0
    assert iteration_of(last_checkpoint(work_dir)) >= finished, (
        f'{where}: the checkpoint at {finished} is lost'
    )


def last_checkpoint(work_dir):
    """The checkpoint that is to be resumed, None if there is none.

    A run killed between a checkpoint and ``last_checkpoint`` goes on from the one before it.
    """
    paths = checkpoints(work_dir)
    note = work_dir / 'last_checkpoint'
    named = Path(note.read_text()) if note.exists() else None
    return named if named in paths.values() else paths.get(max(paths, default=0))


def iteration_of(path):
    """The iterations that a checkpoint has behind it, 0 without one."""
    return torch.load(path, weights_only=False)['meta']['iter'] if path else 0


@pytest.mark.parametrize('case', map(Case, range(CASES if FULL else 8)), ids=Case.name)
def test_killed_run_ends_as_the_uninterrupted_one(case, whole_run, tmp_path):
    print(case)
    whole = whole_run(case.kind, case.variant, case.ranks)
    cfg = config(case.kind, case.variant, case.ranks)
    path = write_config(tmp_path / 'config.py', cfg)
    checkpoint = cfg['default_hooks']['checkpoint']
    interval = BATCHES if checkpoint['by_epoch'] else checkpoint['interval']
    work_dir = tmp_path / 'run'

    def went_on(launch):
        """See that a run begins where its last checkpoint is, and nowhere else."""
        newest, begun = iteration_of(last_checkpoint(work_dir)), len(batches(work_dir, 0))
        result = launch()
        new = batches(work_dir, 0)[begun:]
        assert not new or new[0][0] == newest, f'{case}: from {newest} to {new[0][0]}'
        return result

    killed = 0
    for number, kill in enumerate(case.kills):
        if kill['where'] == 'load' and not checkpoints(work_dir):
            kill['where'] = 'begin'  # Nothing is loaded.
        resume = killed > 0 or case.asks_at_once
        if not went_on(lambda: killed_as_told(case, kill, work_dir, path, resume, number)):  # noqa: B023
            break  # It was faster than the kill.
        killed += 1
        assert_nothing_lost(work_dir, interval, case)
    if not killed:
        shutil.rmtree(work_dir)
        kill = dict(where='after update', at=ITERS // 2, rank=0)
        assert killed_as_told(case, kill, work_dir, path, False, 'last')
    options = [*options_of(case.kind, case.variant), '--resume']
    launch = Launch(path, work_dir, case.ranks, options, forked=case.forked)
    assert went_on(launch.wait), f'{case}\n{launch.output()}'
    assert_same_batches(whole, work_dir, case.ranks, case)
    assert_same_end(whole, work_dir, case.ranks, case)
