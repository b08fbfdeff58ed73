# SPDX-License-Identifier: Apache-2.0
"""Checkpoints appear whole or not at all, and are read only whole and without code."""

import os
import pickle
import resource
import signal
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.fileio import get_file_backend
from mmengine.runner.checkpoint import CheckpointLoader

from se_mm.engine.checkpoints import (
    CONTENTS_KEY,
    candidates,
    contents,
    guard_checkpoints,
    newest_whole,
    read_checkpoint,
    remove_leftovers,
)
from se_mm.smoothing.options import OptionError


def saved(path, **more):
    checkpoint = {
        'state_dict': {'weight': torch.arange(1000.0)},
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
        'message_hub': {},
        'meta': {'iter': 3, 'epoch': 0},
        **more,
    }
    checkpoint['meta'][CONTENTS_KEY] = contents(checkpoint)
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


def test_torch_itself_does_not_notice_a_flipped_bit_which_is_why_the_sums_are_compared(tmp_path):
    path = saved(tmp_path / 'iter_3.pth')
    data = bytearray(path.read_bytes())
    place = data.index(torch.arange(1000.0).numpy().tobytes()) + 2003
    data[place] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path)['state_dict']['weight'], torch.arange(1000.0))
    with pytest.raises(OptionError, match='is damaged: the check sum of'):
        read_checkpoint(path)


def test_what_was_lost_or_changed_is_named(tmp_path):
    path = saved(tmp_path / 'iter_3.pth')
    checkpoint = torch.load(path)
    del checkpoint['optimizer']
    torch.save(checkpoint, path)
    with pytest.raises(OptionError, match="has lost 'optimizer'"):
        read_checkpoint(path)
    checkpoint = torch.load(saved(path))
    checkpoint['state_dict']['weight'] = torch.zeros(3)
    torch.save(checkpoint, path)
    with pytest.raises(OptionError, match=r"'state_dict.weight' was torch.float32 \(1000,\)"):
        read_checkpoint(path)


class Code:
    def __reduce__(self):
        return os.system, ('touch was_run',)


@pytest.mark.skipif(
    not hasattr(torch.serialization, 'add_safe_globals'),
    reason='needs the safe loading of PyTorch 2.4',
)
@pytest.mark.parametrize('protocol', ['torch', 'pickle'])
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    guard_checkpoints()
    if protocol == 'torch':
        saved('code.pth', hook=Code())
    else:
        with open('code.pth', 'wb') as file:
            pickle.dump({'state_dict': Code()}, file)
    with pytest.raises(OptionError, match='refused'):
        read_checkpoint('code.pth')
    with pytest.raises(OptionError, match='refused'):
        CheckpointLoader.load_checkpoint('code.pth')  # By which MMEngine loads everything.
    assert not (tmp_path / 'was_run').exists()


def test_full_disk_leaves_the_file_that_was_there(tmp_path):
    program = (
        'import resource, sys\n'
        'from mmengine.fileio import get_file_backend\n'
        'from se_mm.engine.checkpoints import guard_checkpoints\n'
        'from se_mm.engine.launch import run_tool\n'
        'guard_checkpoints()\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n'
        'run_tool(lambda: get_file_backend("a.pth").put(bytes(9999), "a.pth"), "")\n'
    )
    (tmp_path / 'a.pth').write_bytes(b'old')
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        # What a full disk raises, a limit does by a signal unless it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: checkpoint='a.pth' cannot be written: ")
    assert done.stderr.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
    assert (tmp_path / 'a.pth').read_bytes() == b'old'
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_file_is_written_whole(tmp_path):
    guard_checkpoints()
    get_file_backend(str(tmp_path / 'new' / 'a.pth')).put(b'bytes', str(tmp_path / 'new' / 'a.pth'))
    assert (tmp_path / 'new' / 'a.pth').read_bytes() == b'bytes'
    assert len(list((tmp_path / 'new').iterdir())) == 1


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path):
    for name in ('.iter_3.pth.0f.tmp', 'iter_3.pth', 'notes.tmp'):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['iter_3.pth', 'notes.tmp']


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
    path, reasons = newest_whole(tmp_path)
    assert path.name == 'iter_2.pth' and len(reasons) == 1 and 'iter_1.pth' in reasons[0]
    assert newest_whole(tmp_path / 'empty') == (None, [])
