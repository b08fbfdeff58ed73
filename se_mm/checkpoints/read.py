# SPDX-License-Identifier: Apache-2.0
"""Read checkpoints: undamaged, and by default nothing but tensors and plain data.

A PyTorch checkpoint is a zip archive with a checksum for each entry. :func:`torch.load` does not
verify them and loads a tensor with a flipped bit like any other, so they are verified here.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader

from se_mm.smoothing.options import OptionError, did_you_mean

try:  # Since NumPy 2.
    from numpy._core import multiarray
except ImportError:
    from numpy.core import multiarray  # type: ignore[no-redef]

TRUST = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
"""PyTorch's own environment variable; 1 loads any class, which can run code."""
_CAN_RESTRICT = hasattr(torch.serialization, 'add_safe_globals')  # Since PyTorch 2.4.
_STATISTICS = ('min', 'max', 'current', 'mean')
_ZIP = b'PK\x03\x04'


def read_checkpoint(path: Union[str, Path], map_location: Any = 'cpu') -> Any:
    """Read a checkpoint: a URL with MMEngine's loaders, a local file safely.

    Of a local file, only tensors, plain data and the classes of MMEngine's log are loaded, unless
    the environment variable ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` is set, to trust the file.

    Raises:
        OptionError: If the file does not exist, is damaged, or contains other classes.
    """
    if '://' in str(path):
        return CheckpointLoader.load_checkpoint(str(path), map_location)
    path = Path(path).expanduser()
    name = f'checkpoint {str(path)!r}'
    restricted = _CAN_RESTRICT and os.environ.get(TRUST, '0') not in ('1', 'y', 'yes', 'true')
    try:
        _verify_checksums(path)
        checkpoint = torch.load(path, map_location=map_location, weights_only=restricted)
    except FileNotFoundError as error:
        names = [str(other) for other in path.parent.glob('*.pth')]
        raise OptionError(f'{name} does not exist.{did_you_mean(path, names)}') from error
    except zipfile.BadZipFile as error:
        raise OptionError(f'{name} is damaged: {error}') from error
    except pickle.UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)', str(error))
        if found is None:
            raise OptionError(f'{name} is not a checkpoint, or is damaged') from error
        raise OptionError(
            f'{name} contains {found[1]}, which is not loaded by default; if you trust the file, '
            f'set {TRUST}=1 or allow the class with torch.serialization.add_safe_globals'
        ) from error
    except Exception as error:  # An unpickler can raise anything on damaged bytes.
        reason = ' '.join(str(error).split('\n')[0].split()) or type(error).__name__
        raise OptionError(f'{name} cannot be read: {reason}') from error
    if not _CAN_RESTRICT:
        print_log(
            f'{name} was loaded without restrictions and may have run code; PyTorch 2.4 or later '
            f'restricts what is loaded, this is {torch.__version__}',
            logger='current',
            level=logging.WARNING,
        )
    return checkpoint


def check_training_checkpoint(path: str, checkpoint: Any) -> None:
    """Raise OptionError unless a run can resume from a checkpoint."""
    try:
        state, meta = checkpoint['state_dict'], checkpoint['meta']
        fits = isinstance(state, Mapping) and meta['epoch'] >= 0 and meta['iter'] >= 0
    except (KeyError, TypeError, IndexError):
        fits = False
    if not fits:
        raise OptionError(
            f'cannot resume from {path!r}: it needs a state_dict and the counts meta.epoch and '
            f'meta.iter; use load_from to start from its weights'
        )


def newest_checkpoint(
    work_dir: Union[str, Path],
) -> tuple[Optional[Path], dict[str, Any], list[str]]:
    """Find and read the newest checkpoint of a work dir that a run can resume from.

    Returns:
        Its path, or None if the folder has no checkpoints at all; its contents; and why each newer
        one was skipped.
    """
    reasons: list[str] = []
    for path in candidates(work_dir):
        try:
            checkpoint = read_checkpoint(path)
            check_training_checkpoint(str(path), checkpoint)
            return path, checkpoint, reasons
        except OptionError as error:
            reasons.append(str(error))
    if reasons:
        raise OptionError(
            f'none of the {len(reasons)} checkpoints in work_dir {str(work_dir)!r} can be resumed: '
            f'{reasons[0]}'
        )
    return None, {}, reasons


def candidates(work_dir: Union[str, Path]) -> list[Path]:
    """Return the checkpoints that a run in a work dir can resume from, in the order of preference.

    The first is that in ``last_checkpoint``, found by its file name if the folder was moved. The
    others follow from newest to oldest, without ``best_*`` files, which have no optimizer.
    """
    folder = Path(work_dir)
    named = Path()
    with contextlib.suppress(OSError, ValueError):
        named = Path((folder / 'last_checkpoint').read_text().strip())
    found = [path for path in (folder / named.name, named) if named.name and path.is_file()][:1]
    others = [
        (path.stat().st_mtime, int(number[1]), path)
        for path in folder.glob('*.pth')
        if (number := re.search(r'_(\d+)$', path.stem)) and not path.name.startswith('best_')
    ]
    return found + [path for *_, path in sorted(others, reverse=True) if path not in found]


def allow_mmengine_checkpoints() -> None:
    """Allow the classes in MMEngine's checkpoints for ``torch.load(weights_only=True)``.

    Called when se_mm is imported. MMEngine's checkpoints contain the history of its log, in NumPy
    arrays, which PyTorch 2.6 or later does not load otherwise
    (https://github.com/open-mmlab/mmengine/issues/1655). Nothing that could run code is added.
    """
    if _CAN_RESTRICT:
        torch.serialization.add_safe_globals(_mmengine_classes())


def _mmengine_classes() -> list[Any]:
    """Return the classes and functions that an MMEngine checkpoint refers to."""
    kinds = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', '?')
    dtypes = {type(np.dtype(kind)) for kind in kinds}
    functions = [
        # NumPy 2 renamed the module; a checkpoint may be from before or after that.
        _known_as(f'numpy.{core}.multiarray', name, getattr(multiarray, name))
        for name in ('_reconstruct', 'scalar')
        for core in ('core', '_core')
    ]
    functions += [
        _known_as(module, 'getattr', _statistic) for module in ('builtins', '__builtin__')
    ]
    # NumPy writes bytes by codecs.encode, which PyTorch allows by default since 2.5.
    return [HistoryBuffer, np.ndarray, np.dtype, codecs.encode, *dtypes, *functions]


def _known_as(module: str, name: str, function: Callable) -> Callable:
    """Return a function under the name by which a checkpoint refers to it.

    PyTorch 2.4 and 2.5 use the name of the object; only later versions accept pairs with a name.
    """

    def named(*args: Any) -> Any:
        return function(*args)

    named.__module__, named.__name__, named.__qualname__ = module, name, name
    return named


def _statistic(owner: Any, name: str) -> Any:
    """Stand in for ``getattr``, by which a HistoryBuffer refers to its statistics.

    The real function would let a checkpoint reach any attribute of anything.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def _verify_checksums(path: Path) -> None:
    """Raise BadZipFile if a file in PyTorch's zip format is incomplete or a checksum differs."""
    with path.open('rb') as file:
        zipped = file.read(len(_ZIP)) == _ZIP
    if zipped:  # The format before PyTorch 1.6 has no checksums.
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            raise zipfile.BadZipFile(f'the checksum of {wrong!r} is wrong')
