# SPDX-License-Identifier: Apache-2.0
"""The options of a line in a config: ours, and those of the hook whose line it was.

A line of MMEngine's or mmpretrain's ``EMAHook`` or of mmdet's ``MeanTeacherHook`` is switched by
its ``type`` alone, so their options are understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Optional

from se_mm.smoothing.options import OptionError, check_flag, check_keys
from se_mm.smoothing.settings import Settings

OPTIONS = tuple(option.name for option in fields(Settings))
"""Names of our own options."""

# Options that only an EMAHook has: a line with one of them means a copy of the model.
_OF_EMA_HOOK = (
    'ema_type',
    'strict_load',
    'device',
    'update_buffers',
    'evaluate_on_ema',
    'evaluate_on_origin',
)
_OF_MEAN_TEACHER_HOOK = ('skip_buffer',)


@dataclass(frozen=True)
class Line:
    """What a line says."""

    settings: Settings  # Our options.
    kind: Optional[str]  # The kind of teacher that the other options mean.
    ema: Mapping[str, Any]  # What is an EMAHook's and its averaged model's, for a shadow.


def read_line(hook: str, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> Line:
    """Read the options of a line, all but its type.

    ``hook`` is the hook's name, for messages, and ``defaults`` what differs from those of
    :class:`~se_mm.smoothing.Settings`. Raises OptionError if an option is unknown or invalid, or
    two of them disagree.
    """
    given = dict(options)
    if defaults.get('momentum') == 1.0:
        _check_without_average(hook, given)
    ours = {key: given.pop(key) for key in OPTIONS if key in given}
    kind = None
    if any(key in given for key in _OF_EMA_HOOK):
        kind = 'shadow'
    elif any(key in given for key in _OF_MEAN_TEACHER_HOOK):
        kind = 'pair'
    ema: dict[str, Any] = {
        key: given.pop(key) for key in ('ema_type', 'strict_load', 'device') if key in given
    }
    if 'update_buffers' in given:
        ema['update_buffers'] = given['update_buffers']
    ours['buffers'] = _one(
        'buffers',
        ours.get('buffers'),
        {
            f'{key}={given[key]!r}': values[check_flag(key, given.pop(key))]
            for key, values in (
                ('update_buffers', {True: 'average', False: 'copy'}),
                ('skip_buffer', {True: 'skip', False: 'average'}),
            )
            if key in given
        },
    )
    ours['evaluate_on'] = _one('evaluate_on', ours.get('evaluate_on'), _evaluated(given))
    if 'ema_type' in ema:
        # As EMAHook does, the averaged model gets all that is left, and judges it.
        ema |= {key: given.pop(key) for key in list(given)}
        if 'interval' in ours:
            ema['interval'] = ours['interval']
        momentum = ours.pop('momentum', None)
        if not isinstance(momentum, (int, float, type(None))):
            raise OptionError(
                f'momentum must be a number beside ema_type={ema["ema_type"]!r}, which has a '
                f'schedule of its own, got {momentum!r}'
            )
        if momentum is not None:
            ema['momentum'] = momentum
    check_keys(hook, given, [*OPTIONS, *_OF_EMA_HOOK, *_OF_MEAN_TEACHER_HOOK])
    return Line(Settings(**{**defaults, **ours}), kind, ema)


def _check_without_average(hook: str, given: Mapping[str, Any]) -> None:
    """Reject the options of an average for a hook that copies."""
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


def _evaluated(given: dict[str, Any]) -> dict[str, str]:
    """Who is evaluated by mmpretrain's options, taken out of ``given``."""
    flags = {
        key: check_flag(key, given.pop(key))
        for key in ('evaluate_on_ema', 'evaluate_on_origin')
        if key in given
    }
    if not flags:
        return {}
    on_teacher, on_student = flags.get('evaluate_on_ema', True), flags.get('evaluate_on_origin')
    who = ('both' if on_student else 'teacher') if on_teacher else 'student'
    return {', '.join(f'{key}={value}' for key, value in flags.items()): who}


def _one(name: str, ours: Optional[str], others: Mapping[str, str]) -> Optional[str]:
    """The value that our own option or those of a replaced hook give, which must agree."""
    said = {f'{key} ({name}={value!r})': value for key, value in others.items()}
    if ours is not None:
        said[f'{name}={ours!r}'] = ours
    if len(set(map(str, said.values()))) > 1:
        raise OptionError(f'{" and ".join(said)} must agree: give one of them')
    return next(iter(said.values()), None)
