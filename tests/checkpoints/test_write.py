# SPDX-License-Identifier: Apache-2.0
"""A file appears as a whole or not at all."""

import errno

import pytest

from se_mm.checkpoints.write import remove_leftovers, whole_file
from se_mm.smoothing.options import OptionError


def test_file_is_written_as_a_whole_and_its_folder_is_created(tmp_path):
    with whole_file('out', tmp_path / 'new' / 'a.pth') as temporary:
        temporary.write_bytes(b'bytes')
        assert [path.name for path in (tmp_path / 'new').iterdir()] == [temporary.name]
    assert (tmp_path / 'new' / 'a.pth').read_bytes() == b'bytes'
    assert len(list((tmp_path / 'new').iterdir())) == 1


@pytest.mark.parametrize('key, raised', [('out', OptionError), (None, OSError)])
def test_full_disk_leaves_the_existing_file(tmp_path, key, raised):
    (tmp_path / 'a.pth').write_bytes(b'old')
    with (
        pytest.raises(raised, match='No space left') as error,
        whole_file(key, tmp_path / 'a.pth') as temporary,
    ):
        temporary.write_bytes(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')
    assert '\n' not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
    assert (tmp_path / 'a.pth').read_bytes() == b'old'


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path):
    for name in ('.iter_3.pth.0f.tmp', 'iter_3.pth', 'notes.tmp'):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['iter_3.pth', 'notes.tmp']
