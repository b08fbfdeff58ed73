# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says of the hook that wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from torch import Tensor

from se_mm.history.segments import read_history
from se_mm.smoothing.options import OptionError
from se_mm.version import __version__

CHECKPOINT_KEY = 'se_mm'
"""The key that a checkpoint has beside the stock ones."""

# Beside the state dict, all that the picks depend on, and what publishing needs to know.
_TYPES = {
    'hook': str,
    'seed': int,
    'step': int,
    'options': Mapping,
    'teacher': Mapping,
    'fp32': Mapping,
    'history': list,
}


def record(
    *,
    hook: str,
    seed: int,
    step: int,
    options: Mapping[str, Any],
    teacher: Mapping[str, Any],
    fp32: Mapping[str, Tensor],
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What goes under :data:`CHECKPOINT_KEY`.

    Args:
        hook: Name of the hook.
        seed: Seed of the picks.
        step: Updates made.
        options: The options, as :meth:`~se_mm.smoothing.Settings.plain` has them.
        teacher: ``kind``, and ``parts`` as :attr:`~se_mm.teachers.Teacher.parts`.
        fp32: Averages in float32 of a low-precision teacher.
        history: What was in force at each update: see :mod:`se_mm.history.segments`.
    """
    return {
        'version': __version__,
        'hook': hook,
        'seed': seed,
        'step': step,
        'options': dict(options),
        'teacher': {'kind': teacher['kind'], 'parts': dict(teacher['parts'])},
        'fp32': {name: average.cpu() for name, average in fp32.items()},
        'history': [dict(segment) for segment in history],
    }


def read_record(checkpoint: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """The record in a checkpoint; None if another hook wrote it.

    Raises:
        OptionError: If it was written by a newer version, or is incomplete.
    """
    saved = checkpoint.get(CHECKPOINT_KEY)
    if saved is None:
        return None
    version = saved.get('version') if isinstance(saved, Mapping) else None
    try:
        newer = _numbers(version) > _numbers(__version__)
    except (AttributeError, ValueError):
        raise OptionError(
            f"the checkpoint's record of se_mm is damaged: its version is {version!r}"
        ) from None
    if newer:
        raise OptionError(
            f'the checkpoint needs se_mm {version}, and this is {__version__}: update se_mm'
        )
    for key, kind in _TYPES.items():
        if not isinstance(saved.get(key), kind):
            raise OptionError(
                f"the checkpoint's record of se_mm is damaged: its {key} is {saved.get(key)!r}"
            )
    read_history(saved['history'], saved['step'])
    return saved


def _numbers(version: Any) -> list[int]:
    return [int(part) for part in version.split('.')]


def changed_options(saved: Mapping[str, Any], hook: str, options: Mapping[str, Any]) -> list[str]:
    """What differs between a record and a hook, each as ``'keep_prob=0.5 (was 0.7)'``.

    Args:
        saved: A record.
        hook: Name of the hook that goes on.
        options: Its options.
    """
    before = saved['options']
    changes = [] if saved['hook'] == hook else [f'{hook} (was {saved["hook"]})']
    for key in {**before, **options}:
        if options.get(key) != before.get(key):
            changes.append(f'{key}={options.get(key)!r} (was {before.get(key)!r})')
    return changes
