# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are verified, and by default nothing but tensors and plain data is loaded."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer

from se_mm.checkpoints.read import (
    TRUST,
    _statistic,
    allow_mmengine_checkpoints,
    candidates,
    newest_checkpoint,
    read_checkpoint,
)
from se_mm.smoothing.options import OptionError

can_restrict = hasattr(torch.serialization, 'add_safe_globals')
restricted = pytest.mark.skipif(not can_restrict, reason='needs PyTorch 2.4')


@pytest.fixture(autouse=True)
def little_allowed(monkeypatch):
    """Nothing is allowed but what importing se_mm allows."""
    monkeypatch.delenv(TRUST, raising=False)
    if not can_restrict:
        yield
        return
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.clear_safe_globals()
    allow_mmengine_checkpoints()
    yield
    torch.serialization.add_safe_globals(before)


def saved(path, **more):
    checkpoint = {
        'state_dict': {'weight': torch.arange(1000.0)},
        'meta': {'iter': 3, 'epoch': 0},
        **more,
    }
    torch.save(checkpoint, path)
    return path


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_any_flipped_bit_is_found_or_harmless(tmp_path_factory, place, bit):
    path = saved(tmp_path_factory.mktemp('flipped') / 'iter_3.pth')
    whole = read_checkpoint(path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        found = read_checkpoint(path)
    except OptionError as error:
        assert '\n' not in str(error)
        return
    assert found['meta'] == whole['meta']
    assert torch.equal(found['state_dict']['weight'], whole['state_dict']['weight'])


def test_torch_itself_does_not_notice_a_flipped_bit_which_is_why_checksums_are_verified(tmp_path):
    path = saved(tmp_path / 'iter_3.pth')
    data = bytearray(path.read_bytes())
    place = data.index(torch.arange(1000.0).numpy().tobytes()) + 2003
    data[place] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path)['state_dict']['weight'], torch.arange(1000.0))
    with pytest.raises(OptionError, match='is damaged: the checksum of'):
        read_checkpoint(path)


@pytest.mark.parametrize('size', [0, 3, 100, -100])
def test_truncated_file_is_one_line(tmp_path, size):
    path = saved(tmp_path / 'iter_3.pth')
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(OptionError, match=r"iter_3.pth' (is damaged|cannot be read|is not)") as e:
        read_checkpoint(path)
    assert '\n' not in str(e.value)


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def touch(path):
    """What a hostile checkpoint would have called."""
    open(path, 'w').close()


@restricted
@pytest.mark.parametrize(
    'call',
    [
        (os.system, 'touch was_run'),
        (touch, 'was_run'),
        (eval, 'open("was_run", "w").close()'),
        (getattr, HistoryBuffer, '__init__'),
        (getattr, dict, '__subclasses__'),
    ],
)
@pytest.mark.parametrize('protocol', ['torch', 'pickle'])
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, protocol, call):
    monkeypatch.chdir(tmp_path)
    if protocol == 'torch':
        saved('code.pth', hook=Calls(*call))
    else:
        with open('code.pth', 'wb') as file:
            pickle.dump({'state_dict': Calls(*call)}, file)
    with pytest.raises(OptionError) as error:
        read_checkpoint('code.pth')
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'was_run').exists()


@restricted
def test_other_class_is_refused_by_a_line_that_says_how_to_allow_it(tmp_path, monkeypatch):
    path = saved(tmp_path / 'iter_3.pth', args=argparse.Namespace(lr=0.1))
    with pytest.raises(OptionError, match=f'contains argparse.Namespace, .*{TRUST}=1') as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)
    torch.serialization.add_safe_globals([argparse.Namespace])
    assert read_checkpoint(path)['args'].lr == 0.1
    torch.serialization.clear_safe_globals()
    monkeypatch.setenv(TRUST, '1')
    assert read_checkpoint(path)['args'].lr == 0.1


@restricted
def test_log_of_a_run_is_read_and_only_because_its_classes_are_allowed(runs):
    runner = runs.classifier(dict(type='SETMAHook'))
    path = f'{runner.work_dir}/iter_6.pth'
    checkpoint = read_checkpoint(path)
    history = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.mean() == pytest.approx(runner.message_hub.get_scalar('train/loss').mean())
    torch.serialization.clear_safe_globals()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@restricted
def test_what_the_user_allowed_stays_allowed():
    torch.serialization.add_safe_globals([argparse.Namespace, np.ndarray])
    allow_mmengine_checkpoints()
    assert {argparse.Namespace, np.ndarray} <= set(torch.serialization.get_safe_globals())


def test_only_the_statistics_of_a_history_can_be_read():
    assert _statistic(HistoryBuffer, 'mean') is HistoryBuffer.mean
    for owner, name in [(HistoryBuffer, '__init__'), (dict, 'mean'), (torch, 'max')]:
        with pytest.raises(pickle.UnpicklingError, match='getattr'):
            _statistic(owner, name)


def test_missing_file_is_one_line_that_names_the_nearest(tmp_path):
    saved(tmp_path / 'iter_3.pth')
    with pytest.raises(OptionError, match=r"does not exist. Did you mean '.*iter_3.pth'"):
        read_checkpoint(tmp_path / 'iter_33.pth')


def test_named_checkpoint_comes_first_and_then_the_newest(tmp_path):
    for age, name in enumerate(['iter_9.pth', 'iter_1.pth', 'iter_2.pth', 'best_top1_iter_2.pth']):
        saved(tmp_path / name)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    (tmp_path / 'last_checkpoint').write_text('/another/machine/run/iter_1.pth')  # It was moved.
    assert [path.name for path in candidates(tmp_path)] == [
        'iter_1.pth',
        'iter_2.pth',
        'iter_9.pth',
    ]
    (tmp_path / 'iter_1.pth').write_bytes(b'')
    path, checkpoint, reasons = newest_checkpoint(tmp_path)
    assert path.name == 'iter_2.pth' and checkpoint['meta']['iter'] == 3
    assert len(reasons) == 1 and 'iter_1.pth' in reasons[0]
    assert newest_checkpoint(tmp_path / 'empty') == (None, {}, [])
    torch.save({'weight': torch.ones(1)}, tmp_path / 'iter_2.pth')
    (tmp_path / 'iter_9.pth').unlink()
    with pytest.raises(OptionError, match='none of the 2 checkpoints'):
        newest_checkpoint(tmp_path)
