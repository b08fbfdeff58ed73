# SPDX-License-Identifier: Apache-2.0
"""Lets ``torch.load(weights_only=True)`` read what MMEngine writes, and nothing more.

Since PyTorch 2.6 only tensors and a few plain types are loaded unless a class is named as safe, and
a resume with MMEngine 0.10.7 fails (https://github.com/open-mmlab/mmengine/issues/1655): its
checkpoints hold the log's history, made of NumPy arrays. Here those classes are named.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

try:  # Since NumPy 2.
    from numpy._core import multiarray
except ImportError:
    from numpy.core import multiarray

_STATISTICS = ('min', 'max', 'current', 'mean')


def _statistic(owner: Any, name: str) -> Any:
    """What a checkpoint gets for ``getattr``: one of four methods of one class.

    A history refers to its statistics by ``getattr(HistoryBuffer, 'mean')``. The real function
    would let a checkpoint reach any attribute of anything.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise ValueError(f'a checkpoint may not read the attribute {name!r} of {owner!r}.')
    return getattr(owner, name)


def allow_mmengine_checkpoints() -> None:
    """Name what an MMEngine checkpoint holds as safe. Does nothing where PyTorch does not ask."""
    if not hasattr(torch.serialization, 'add_safe_globals'):  # Before PyTorch 2.4.
        return
    kinds = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', '?')
    dtypes = {type(np.dtype(kind)) for kind in kinds}
    classes = [HistoryBuffer, np.ndarray, np.dtype, *dtypes]
    functions = [multiarray._reconstruct, multiarray.scalar]
    # Each with its name: OneDL's MMEngine allows the bare classes for the time of one load, and
    # after that they would be gone from here, too.
    named = [(item, f'{item.__module__}.{item.__qualname__}') for item in classes]
    # The module was renamed in NumPy 2; a checkpoint may come from either side.
    named += [
        (item, f'numpy.{core}.multiarray.{item.__name__}')
        for item in functions
        for core in ('core', '_core')
    ]
    named.append((_statistic, 'builtins.getattr'))
    try:
        torch.serialization.add_safe_globals(named)
    except (AttributeError, TypeError):
        # PyTorch 2.4 and 2.5 do not take names, and do not ask unless told to.
        torch.serialization.add_safe_globals([*classes, *functions])
