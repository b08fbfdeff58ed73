# SPDX-License-Identifier: Apache-2.0
"""The options of the hooks that ours take the place of, as a config's line already has them.

So a line is switched by its ``type`` alone: ``EMAHook`` of MMEngine and mmpretrain, and mmdet's
``MeanTeacherHook``. Each function takes what it understands out of the options it is given.
"""

from __future__ import annotations

import inspect
from typing import Any, Optional, Union

from mmengine.model import BaseAveragedModel
from mmengine.registry import MODELS
from torch import nn

from se_mm.engine.teachers.inherited_average import inherited_average
from se_mm.models import SmoothedModel
from se_mm.smoothing.options import OptionError, check_flag, did_you_mean
from se_mm.smoothing.rules import AverageFunction
from se_mm.smoothing.schedules import Schedule

# An averaged model's arguments that are no matter of its averaging.
_NOT_OF_THE_AVERAGE = {'self', 'model', 'momentum', 'interval', 'device', 'update_buffers'}
# As they are called in a config of any library.
_KNOWN_AVERAGES = (
    'ExponentialMovingAverage',
    'MomentumAnnealingEMA',
    'StochasticWeightAverage',
    'mmdet.ExpMomentumEMA',
    'mmpretrain.CosineEMA',
)


def stock_buffers(buffers: Optional[str], options: dict[str, Any]) -> str:
    """The buffer policy, by our own option or by a replaced hook's.

    Args:
        buffers: Our own option; None if it is not given.
        options: Options given besides. ``update_buffers`` (``EMAHook``) and ``skip_buffer``
            (``MeanTeacherHook``) are taken out of it.

    Raises:
        OptionError: If two of them disagree.
    """
    said = {} if buffers is None else {f'buffers={buffers!r}': buffers}
    for key, policies in (
        ('update_buffers', {True: 'average', False: 'copy'}),
        ('skip_buffer', {True: 'skip', False: 'average'}),
    ):
        if key in options:
            value = check_flag(key, options.pop(key))
            said[f'{key}={value} (which is buffers={policies[value]!r})'] = policies[value]
    if len(set(said.values())) > 1:
        raise OptionError(f'{" and ".join(said)} disagree: give one of them.')
    return next(iter(said.values()), 'copy')


def stock_evaluate_on(evaluate_on: Optional[str], options: dict[str, Any]) -> Optional[str]:
    """Who is evaluated, by our own option or by that of mmpretrain's ``EMAHook``.

    Args:
        evaluate_on: Our own option; None if it is not given.
        options: Options given besides. ``evaluate_on_ema`` and ``evaluate_on_origin`` are taken
            out of it.

    Raises:
        OptionError: If they disagree.
    """
    given = {
        key: check_flag(key, options.pop(key))
        for key in ('evaluate_on_ema', 'evaluate_on_origin')
        if key in options
    }
    if not given:
        return evaluate_on
    on_teacher, on_student = given.get('evaluate_on_ema', True), given.get('evaluate_on_origin')
    who = ('both' if on_student else 'teacher') if on_teacher else 'student'
    if evaluate_on not in (None, who):
        said = ', '.join(f'{key}={value}' for key, value in given.items())
        raise OptionError(
            f'evaluate_on={evaluate_on!r} and {said} (which is evaluate_on={who!r}) disagree: give '
            f'one of them.'
        )
    return who


def stock_average(momentum: Any, options: dict[str, Any]) -> Union[Schedule, AverageFunction, None]:
    """The average that ``ema_type`` names.

    Args:
        momentum: The option beside it; None if it is not given.
        options: Options given besides. ``ema_type`` is taken out of it, and with it what the named
            class is to be built with.

    Returns:
        None if there is no ``ema_type``.

    Raises:
        OptionError: If there is no such class, it is one of ours, it refuses what it is given, or
            momentum has a schedule of its own.
    """
    name = options.pop('ema_type', None)
    if name is None:
        return None
    with MODELS.switch_scope_and_registry(None) as models:  # mmdet's, in a config of mmdet.
        kind = models.get(name) if isinstance(name, str) else None
    if kind is None or not issubclass(kind, BaseAveragedModel):
        raise OptionError(
            f'ema_type={name!r} is not allowed: the name of an averaged model, as '
            f"'ExponentialMovingAverage'.{did_you_mean(name, _KNOWN_AVERAGES)}"
        )
    if issubclass(kind, SmoothedModel):
        raise OptionError(
            f'ema_type={name!r} is not allowed: it is a spatial ensemble itself. Drop it, or keep '
            f"type='EMAHook'."
        )
    if momentum is not None and not isinstance(momentum, (int, float)):
        raise OptionError(
            f'momentum={momentum!r} is given beside ema_type={name!r}, which has a schedule of its '
            f'own: give a number, or drop ema_type.'
        )
    given = {} if momentum is None else {'momentum': momentum}
    for key in _arguments(kind) - _NOT_OF_THE_AVERAGE:
        if key in options:
            given[key] = options.pop(key)
    try:
        # Of a module without weights, whose initialisation would draw random numbers.
        return inherited_average(kind(nn.Identity(), **given))
    except (TypeError, AssertionError, ValueError) as error:
        said = ', '.join(f'{key}={value!r}' for key, value in given.items())
        raise OptionError(f'ema_type={name!r} refuses {said}: {error}') from error


def _arguments(kind: type) -> set[str]:
    """What a class and its bases are built with."""
    return {key for base in kind.__mro__ for key in inspect.signature(base.__init__).parameters} - {
        'args',
        'kwargs',
    }
