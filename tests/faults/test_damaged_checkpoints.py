# SPDX-License-Identifier: Apache-2.0
"""Damaged checkpoints are refused or load as they were; stripped ones load with a note."""

import logging
import random
import shutil
import sys
import uuid
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import se_mm  # noqa: F401  (registers the hooks)
from se_mm.engine.runner.cpu import CPURunner
from se_mm.smoothing.options import OptionError

pytest.importorskip('mmpretrain')
sys.path.insert(0, str(Path(__file__).parent))
import fault_probe  # noqa: F401  (registers the network)
import small_runs

KINDS = ('byol', 'fixmatch', 'shadow')
CASES = 200 if small_runs.FULL else 24
WAYS = (
    'truncated',
    'bits flipped',
    'bytes zeroed',
    'stripped',
    'other shape',
    'other version',
    'other options',
    'other model',
)


def build(kind, work_dir, **changes):
    """A runner of a few iterations."""
    variant = dict(iters=6, interval=6, loader=dict(num_workers=0))
    cfg = Config(small_runs.config(kind, variant, 1))
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if 'SETMA' in hook['type']]
    cfg.pop('custom_imports', None)
    cfg.train_cfg.max_iters = 6
    cfg.work_dir = str(work_dir)
    cfg.log_level = 'ERROR'
    # Not by `random`, which runs seed: the message hub of a name that comes again is not current.
    cfg.experiment_name = f'{kind}-{uuid.uuid4()}'
    cfg.launcher = 'none'
    cfg.merge_from_dict(changes)
    return CPURunner.from_cfg(cfg)


@cache
def checkpoint_of(kind, folder):
    """A whole checkpoint of a kind of run, in the middle of it."""
    runner = build(kind, folder / kind)
    runner.train()
    return folder / kind / 'iter_6.pth'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('whole')


def state_of(runner):
    """All that a run goes on from, as tensors and numbers by name."""
    (hook,) = (hook for hook in runner.hooks if hasattr(hook, 'teacher'))
    ensemble = hook.updater.ensemble
    pairs = ensemble.smoother.pairs.values()
    state = {f'student.{p.name}': p.student for p in ensemble.smoother.named().values()}
    state |= {f'teacher.{p.name}': p.teacher for p in pairs}
    state |= {f'model.{name}': value for name, value in runner.model.state_dict().items()}
    optimizer = runner.optim_wrapper.state_dict()
    for index, entry in optimizer['state'].items():
        state |= {f'optimizer.{index}.{name}': value for name, value in entry.items()}
    for index, group in enumerate(optimizer['param_groups']):
        state[f'group.{index}'] = {k: v for k, v in group.items() if k != 'params'}
    for index, scheduler in enumerate(runner.param_schedulers or []):
        state[f'scheduler.{index}'] = scheduler.state_dict()
    place = [runner.iter, runner.epoch, runner.seed, ensemble.step, ensemble.seed]
    return {**state, 'place': place}


def same(left, right):
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    return left == right


def resumed(kind, path, work_dir, **changes):
    """The state of a run that goes on from a checkpoint which is already at its end."""
    runner = build(kind, work_dir, resume=True, load_from=str(path), **changes)
    runner.train()
    return state_of(runner)


def damage(way, path, rng):
    """Damage a file, and say how."""
    data = bytearray(path.read_bytes())
    if way == 'truncated':
        size = rng.randrange(len(data))
        path.write_bytes(data[:size])
        return f'{size} of {len(data)} bytes'
    if way in ('bits flipped', 'bytes zeroed'):
        first = rng.randrange(len(data))
        if way == 'bits flipped':
            data[first] ^= 1 << rng.randrange(8)
        else:
            count = rng.randint(1, 4096)
            data[first : first + count] = bytes(len(data[first : first + count]))
        path.write_bytes(data)
        return f'at {first} of {len(data)}'
    checkpoint = torch.load(path, weights_only=True)
    if way == 'other version':
        checkpoint['se_mm']['version'] = said = rng.choice(['99.0.0', '', 'x', None])
    elif way == 'stripped':
        said = rng.choice(['optimizer', 'message_hub', 'param_schedulers'])
        del checkpoint[said]
    else:
        state = checkpoint['state_dict']
        said = rng.choice([name for name in state if state[name].dim()])
        state[said] = torch.cat([state[said].flatten(), state[said].flatten()])
    torch.save(checkpoint, path)
    return said


@cache
def expected_of(kind, folder):
    """What goes on from a whole checkpoint."""
    return resumed(kind, checkpoint_of(kind, folder), folder / f'{kind}-resumed')


@pytest.mark.parametrize('case', range(CASES))
def test_damaged_checkpoint_is_refused_or_loads_as_it_was(case, folder, tmp_path, caplog):
    rng = random.Random(f'{small_runs.SEED}-{case}')
    kind, way = KINDS[case % len(KINDS)], WAYS[case % len(WAYS)]
    whole = checkpoint_of(kind, folder)
    path = tmp_path / 'iter_6.pth'
    shutil.copy(whole, path)
    if way == 'other options':
        changes = {'custom_hooks.0.keep_prob': 0.123}
        with caplog.at_level(logging.WARNING, 'mmengine'):
            runner = build(kind, tmp_path, resume=True, load_from=str(path), **changes)
            said = []
            runner.logger.warning = lambda message, *_: said.append(message)
            runner.train()
        assert any('keep_prob=0.123 (was' in message for message in said), said
        return
    if way == 'other model':
        with pytest.raises(OptionError) as error:
            resumed(KINDS[(case + 1) % len(KINDS)], path, tmp_path / 'run')
        assert '\n' not in str(error.value)
        return
    said = damage(way, path, rng)
    print(f'SE_MM_FAULT_SEED={small_runs.SEED} case {case}: {kind}, {way}, {said}')
    if way == 'stripped':
        runner = build(kind, tmp_path / 'run', resume=True, load_from=str(path))
        noted = []
        runner.logger.warning = lambda message, *_: noted.append(str(message))
        runner.train()
        assert any(f'has no {said}: new ones are used' in note for note in noted), noted
        return
    try:
        state = resumed(kind, path, tmp_path / 'run')
    except OptionError as error:
        assert '\n' not in str(error)
        return
    assert way != 'other shape'
    expected = expected_of(kind, folder)
    assert list(state) == list(expected)
    assert [name for name in state if not same(state[name], expected[name])] == []


def test_resume_without_a_name_takes_the_newest_that_is_whole(folder, tmp_path):
    whole = checkpoint_of('byol', folder)
    for number in (2, 6):
        shutil.copy(whole, tmp_path / f'iter_{number}.pth')
    (tmp_path / 'iter_6.pth').write_bytes(whole.read_bytes()[:-100])
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_6.pth'))
    runner = build('byol', tmp_path, resume=True)
    said = []
    runner.logger.warning = lambda message, *_: said.append(message)
    runner.train()
    assert runner._load_from == str(tmp_path / 'iter_2.pth')
    assert "iter_6.pth' is damaged" in said[0] and 'trying an older checkpoint' in said[0]


def test_nothing_whole_to_go_on_from_is_refused_rather_than_begun_anew(folder, tmp_path):
    (tmp_path / 'iter_6.pth').write_bytes(checkpoint_of('byol', folder).read_bytes()[:-100])
    with pytest.raises(OptionError, match='none of the 1 checkpoints'):
        build('byol', tmp_path, resume=True).train()
