# SPDX-License-Identifier: Apache-2.0
"""The options of a hook in a config: ours, and those of the stock hook that it replaces.

To replace MMEngine's or mmpretrain's ``EMAHook`` or mmdet's ``MeanTeacherHook``, it is enough to
change the ``type`` in the config: their options are understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Optional

from se_mm.smoothing.options import OptionError, check_flag, check_keys
from se_mm.smoothing.settings import Settings

OPTIONS = tuple(option.name for option in fields(Settings))
"""Names of our own options."""

_KINDS = {
    'ema_type': 'shadow',
    'strict_load': 'shadow',
    'device': 'shadow',
    'update_buffers': 'shadow',
    'evaluate_on_ema': 'shadow',
    'evaluate_on_origin': 'shadow',
    'skip_buffer': 'pair',
}
"""Option that only a stock hook has -> the kind of teacher of that hook."""


@dataclass(frozen=True)
class HookOptions:
    """The options of a hook, validated."""

    settings: Settings  # Our options.
    kind: Optional[str]  # The kind of teacher that the options of a stock hook mean.
    ema: Mapping[str, Any]  # Options of an EMAHook and its averaged model.


def read_options(hook: str, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> HookOptions:
    """Read the options of the hook with this name, all but its type.

    ``defaults`` are the defaults that differ from those of :class:`~se_mm.smoothing.Settings`.
    Raises OptionError if an option is unknown or invalid, or two options contradict each other.
    """
    given = dict(options)
    if defaults.get('momentum') == 1.0:
        _check_without_average(hook, given)
    kind = next((kind for option, kind in _KINDS.items() if option in given), None)
    ours = {key: given.pop(key) for key in OPTIONS if key in given}
    ema: dict[str, Any] = {}
    for key in ('ema_type', 'strict_load', 'device'):
        if key in given:
            ema[key] = given.pop(key)
    if 'update_buffers' in given:
        ema['update_buffers'] = given['update_buffers']
    for option, name, value in _translated(given):
        if ours.get(name) is None:
            ours[name] = value
        elif ours[name] != value:
            raise OptionError(
                f'{option} means {name}={value!r}, but {name}={ours[name]!r} is set too: remove '
                f'one of them'
            )
    if 'ema_type' in ema:
        # As in EMAHook, the averaged model gets and validates all other options.
        ema |= {key: given.pop(key) for key in list(given)}
        if 'interval' in ours:
            ema['interval'] = ours['interval']
        momentum = ours.pop('momentum', None)
        if not isinstance(momentum, (int, float, type(None))):
            raise OptionError(
                f'momentum must be a number with ema_type={ema["ema_type"]!r}, which has its own '
                f'schedule, got {momentum!r}'
            )
        if momentum is not None:
            ema['momentum'] = momentum
    check_keys(hook, given, [*OPTIONS, *_KINDS])
    return HookOptions(Settings(**{**defaults, **ours}), kind, ema)


def _check_without_average(hook: str, given: Mapping[str, Any]) -> None:
    """Raise OptionError for an option of an average, for a hook that copies."""
    for key in ('momentum', 'ema_type', 'match_horizon', 'fp32_teacher', 'gamma'):
        if key in given:
            slow = given.get('momentum')
            hint = (
                f' (keep_prob={1 - slow:g} follows as slowly as momentum={slow:g})'
                if isinstance(slow, float) and 0 < slow < 1
                else ''
            )
            raise OptionError(
                f'{hook} copies units and has no average: remove {key}, or use SETMAHook{hint}'
            )


def _translated(given: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Remove options of stock hooks, and return each with our option and value that it means."""
    found = []
    if 'update_buffers' in given:
        average = check_flag('update_buffers', given.pop('update_buffers'))
        found.append((f'update_buffers={average}', 'buffers', 'average' if average else 'copy'))
    if 'skip_buffer' in given:
        skip = check_flag('skip_buffer', given.pop('skip_buffer'))
        found.append((f'skip_buffer={skip}', 'buffers', 'skip' if skip else 'average'))
    if 'evaluate_on_ema' in given or 'evaluate_on_origin' in given:
        teacher = check_flag('evaluate_on_ema', given.pop('evaluate_on_ema', True))
        student = check_flag('evaluate_on_origin', given.pop('evaluate_on_origin', False))
        who = 'student' if not teacher else 'both' if student else 'teacher'
        option = f'evaluate_on_ema={teacher} with evaluate_on_origin={student}'
        found.append((option, 'evaluate_on', who))
    return found
