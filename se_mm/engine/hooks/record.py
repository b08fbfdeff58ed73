# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says of the hook that wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from torch import Tensor

from se_mm.smoothing.history import read_history
from se_mm.smoothing.options import OptionError
from se_mm.version import __version__

CHECKPOINT_KEY = 'se_mm'
"""The key that a checkpoint has beside the stock ones."""


def record(
    hook: str,
    seed: int,
    step: int,
    options: Mapping[str, Any],
    fp32: Mapping[str, Tensor],
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What goes under :data:`CHECKPOINT_KEY`: with the state dict, all that the picks depend on.

    Args:
        hook: Name of the hook.
        seed: Seed of the picks.
        step: Updates made.
        options: The hook's options as the config has them.
        fp32: The averages that the teacher of a low precision has in float32.
        history: What was in force at each update: see :mod:`se_mm.smoothing.history`.
    """
    return {
        'version': __version__,
        'hook': hook,
        'seed': seed,
        'step': step,
        'options': plain(options),
        'fp32': {name: average.cpu() for name, average in fp32.items()},
        'history': plain(history),
    }


def read_record(checkpoint: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """The record in a checkpoint; None if another hook wrote it.

    Raises:
        OptionError: If it is of a newer version than this, or incomplete.
    """
    saved = checkpoint.get(CHECKPOINT_KEY)
    if saved is None:
        return None
    version = saved.get('version') if isinstance(saved, Mapping) else None
    try:
        newer = _numbers(version) > _numbers(__version__)
    except (TypeError, ValueError):
        raise OptionError(
            f'the record of se_mm in the checkpoint has version={version!r}: damaged.'
        ) from None
    if newer:
        raise OptionError(
            f'the checkpoint was written by se_mm {version}, and this is {__version__}: update it.'
        )
    kinds = {
        'hook': str,
        'seed': int,
        'step': int,
        'options': Mapping,
        'fp32': Mapping,
        'history': list,
    }
    for key, kind in kinds.items():
        if not isinstance(saved.get(key), kind):
            raise OptionError(
                f'the record of se_mm in the checkpoint has {key}={saved.get(key)!r}: damaged.'
            )
    read_history(saved['history'], saved['step'])
    return saved


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split('.')]


def changed_options(saved: Mapping[str, Any], hook: str, options: Mapping[str, Any]) -> list[str]:
    """What differs between a record and a hook, each as ``'keep_prob=0.5 (was 0.7)'``.

    Args:
        saved: A record.
        hook: Name of the hook that goes on.
        options: Its options.
    """
    before, now = saved['options'], plain(options)
    changes = [] if saved['hook'] == hook else [f'{hook} (was {saved["hook"]})']
    for key in {**before, **now}:
        if now.get(key) != before.get(key):
            changes.append(f'{key}={now.get(key)!r} (was {before.get(key)!r})')
    return changes


def plain(value: Any) -> Any:
    """``value`` made of Python's own types, which a checkpoint may hold."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
