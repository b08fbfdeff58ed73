# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are written whole or not at all, and read only if they are whole.

A checkpoint of PyTorch is a zip archive with a check sum for each of its parts, which
:func:`torch.load` does not look at, so a tensor with a flipped bit is loaded like any other. Here
they are compared, and what a checkpoint must contain is compared with the list in its ``meta``.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from se_mm.smoothing.options import OptionError, did_you_mean
from se_mm.whole_file import whole_file

CONTENTS_KEY = 'contents'
"""Where the ``meta`` of a checkpoint has the list of what is in it."""
_LIST = f'meta.{CONTENTS_KEY}'
_LAST = 'last_checkpoint'
_ZIP = b'PK\x03\x04'


class WholeFileBackend(LocalBackend):
    """MMEngine's local files, which are written whole or not at all."""

    def put(self, obj: Union[bytes, memoryview], filepath: Union[str, Path]) -> None:
        """Write a file; if that fails, what was there is left as it was.

        Raises:
            OptionError: If it cannot be written, as on a full disk.
        """
        with whole_file('checkpoint', filepath) as temporary, temporary.open('wb') as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())  # Renamed first, it might be empty after a power failure.


def guard_checkpoints() -> None:
    """Let MMEngine write local files whole, and read local checkpoints safely, in this process."""
    register_backend('local', WholeFileBackend, force=True, prefixes='')
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    if hasattr(torch.serialization, 'add_safe_globals'):
        # What is loaded otherwise, as weights from the internet.
        os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What MMEngine loads a local file by; its log takes the name apart."""
    return read_checkpoint(filename, map_location)


def contents(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """What a checkpoint holds: dotted name -> dtype and shape of a tensor, or the type.

    Args:
        checkpoint: Nested dicts and lists.
    """
    found: dict[str, str] = {}

    def walk(path: str, value: Any) -> None:
        children: Any = ()
        if isinstance(value, Mapping):
            children = value.items()
        elif isinstance(value, (list, tuple)):
            children = enumerate(value)
        if isinstance(value, Tensor):
            found[path] = f'{value.dtype} {tuple(value.shape)}'
        else:
            found[path] = type(value).__name__ if not children else 'folder'
        for key, child in children:
            walk(f'{path}.{key}', child)

    for key, value in checkpoint.items():
        walk(str(key), value)
    return {name: kind for name, kind in found.items() if not name.startswith(_LIST)}


def read_checkpoint(
    path: Union[str, Path], map_location: Any = 'cpu', key: str = 'checkpoint'
) -> dict[str, Any]:
    """Read a checkpoint, and nothing but tensors and plain data from it.

    Args:
        path: A local file.
        map_location: As for :func:`torch.load`.
        key: What names the file, for messages.

    Raises:
        OptionError: If it is damaged, incomplete, or holds code.
    """
    where = f'{key}={str(path)!r}'
    safe = hasattr(torch.serialization, 'add_safe_globals')
    try:
        _check_sums(path)
        checkpoint = torch.load(path, map_location=map_location, weights_only=safe)
    except FileNotFoundError as error:
        names = [str(child) for child in Path(path).parent.glob('*.pth')]
        raise OptionError(f'{where} does not exist.{did_you_mean(path, names)}') from error
    except pickle.UnpicklingError as error:
        # PyTorch's message has a page of advice on how to load it all the same.
        raise OptionError(
            f'{where} is refused: it is no checkpoint, or holds more than tensors and plain data.'
        ) from error
    except zipfile.BadZipFile as error:
        raise OptionError(f'{where} is damaged: {error}') from error
    except Exception as error:  # Damaged bytes can make a reader stumble in any way.
        reason = ' '.join(str(error).split('\n')[0].split()) or type(error).__name__
        raise OptionError(f'{where} cannot be read: {reason}') from error
    if not safe:
        print_log(
            f'{where} was read as this PyTorch reads it, which runs code that is in it: load only '
            f'what you trust, or update to PyTorch 2.4.',
            logger='current',
            level=logging.WARNING,
        )
    if isinstance(checkpoint, dict):
        _check_contents(where, checkpoint)
    return checkpoint


def read_training_checkpoint(path: Union[str, Path], map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint that a run can go on from.

    Args:
        path: A local file.
        map_location: As for :func:`torch.load`.

    Raises:
        OptionError: As :func:`read_checkpoint`, or if it lacks what a resume needs.
    """
    checkpoint = read_checkpoint(path, map_location, key='--resume')
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    for part in ('state_dict', 'meta', 'optimizer', 'message_hub'):
        if not isinstance(parts.get(part), Mapping):
            raise OptionError(
                f'--resume={str(path)!r} has no {part!r}, which a run needs to go on: it is no '
                f'checkpoint of a training.'
            )
    for number in ('epoch', 'iter'):
        value = parts['meta'].get(number)
        if not isinstance(value, int) or value < 0:
            raise OptionError(f'--resume={str(path)!r} has meta.{number}={value!r}: damaged.')
    return checkpoint


def _check_sums(path: Union[str, Path]) -> None:
    """Compare the check sums of a file in PyTorch's zip format.

    Raises:
        zipfile.BadZipFile: If one differs, or the archive is incomplete.
    """
    with open(path, 'rb') as file:
        begins = file.read(len(_ZIP)) == _ZIP
    if not begins and not zipfile.is_zipfile(path):
        return  # The format of PyTorch before 1.6, which has none.
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise zipfile.BadZipFile(str(error)) from error
    if wrong is not None:
        raise zipfile.BadZipFile(f'the check sum of {wrong!r} is wrong')


def _check_contents(where: str, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks something that was in it when it was written."""
    meta = checkpoint.get('meta')
    listed = meta.get(CONTENTS_KEY) if isinstance(meta, Mapping) else None
    if not isinstance(listed, Mapping):
        return  # One of another program.
    found = contents(checkpoint)
    for name, kind in listed.items():
        if name not in found:
            raise OptionError(f'{where} is damaged: it has lost {name!r}.')
        if found[name] != kind:
            raise OptionError(f'{where} is damaged: {name!r} was {kind}, and is {found[name]}.')


def candidates(work_dir: Union[str, Path]) -> list[Path]:
    """Checkpoints that a run in a work dir may go on from, the likeliest first.

    That is the one that ``last_checkpoint`` names; if the folder was moved, the one of that name in
    it. Then all others, the newest first; those of the best metric hold no optimizer.
    """
    folder = Path(work_dir)
    found: list[Path] = []
    try:
        named = Path((folder / _LAST).read_text().strip())
    except (OSError, UnicodeDecodeError, ValueError):
        named = Path()
    for path in (folder / named.name, named):
        if named.name and path.is_file() and path not in found:
            found.append(path)
            break
    others = [
        path
        for path in folder.glob('*.pth')
        if re.search(r'_\d+$', path.stem) and not path.name.startswith('best_')
    ]

    def age(path: Path) -> tuple[float, int]:
        return path.stat().st_mtime, int(path.stem.rpartition('_')[2])

    found += [path for path in sorted(others, key=age, reverse=True) if path not in found]
    return found


def newest_whole(work_dir: Union[str, Path]) -> tuple[Optional[Path], list[str]]:
    """The newest checkpoint of a work dir that can be resumed.

    Returns:
        Its path, None if there is no file at all; and why each that was tried before it was not
        taken.

    Raises:
        OptionError: If there are files, but none of them is whole.
    """
    reasons: list[str] = []
    for path in candidates(work_dir):
        try:
            read_training_checkpoint(path)
        except OptionError as error:
            reasons.append(str(error))
        else:
            return path, reasons
    if reasons:
        raise OptionError(
            f'none of the {len(reasons)} checkpoints in work_dir={str(work_dir)!r} can be resumed: '
            f'{reasons[0]}'
        )
    return None, reasons


def remove_leftovers(work_dir: Union[str, Path]) -> None:
    """Remove what a run that was killed while it saved had written of its last file."""
    for path in Path(work_dir).glob('.*.tmp'):
        path.unlink(missing_ok=True)
