# SPDX-License-Identifier: Apache-2.0
"""Schedules of keep_prob and momentum: pure functions of the update step.

Each takes the update step and the total number of updates, both counted from the first update, and
returns a float. :func:`build_schedule` turns an option's value, a number or
``dict(type=..., ...)``, into a :class:`Schedule`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from se_mm.smoothing.options import OptionError, check_choice, check_keys, check_number


def constant(step: int, total: int, value: float) -> float:
    """``value`` at every step."""
    return value


def linear(step: int, total: int, start: float, end: float) -> float:
    """From ``start`` at step 0 to ``end`` at step ``total`` along a line, ``end`` afterwards."""
    return start + (end - start) * min(step / total, 1.0)


def cosine(step: int, total: int, start: float, end: float) -> float:
    """From ``start`` at step 0 to ``end`` at step ``total`` along half a cosine, then ``end``.

    With ``end=0`` it is the momentum of BYOL (Grill et al., 2020) in OpenMMLab's sense, and that
    of mmpretrain's ``CosineEMA``.
    """
    return end - (end - start) * (math.cos(math.pi * min(step / total, 1.0)) + 1) / 2


def annealed(step: int, total: int, value: float, gamma: float) -> float:
    """``gamma / (gamma + step)``, at least ``value``: mmengine's ``MomentumAnnealingEMA``."""
    return max(value, gamma / (gamma + step))


def exp_annealed(step: int, total: int, value: float, gamma: float) -> float:
    """From 1 to ``value``, exponentially over ``gamma`` steps: mmdet's ``ExpMomentumEMA``."""
    return (1 - value) * math.exp(-(1 + step) / gamma) + value


def running_mean(step: int, total: int, interval: int) -> float:
    """``1 / n`` at the n-th average: mmengine's ``StochasticWeightAverage``."""
    return 1 / (step // interval + 1)


@dataclass(frozen=True)
class Schedule:
    """A function of this module with its parameters.

    Attributes:
        function: One of the functions above.
        parameters: All its arguments but ``step`` and ``total``.
    """

    function: Callable[..., float]
    parameters: Mapping[str, float] = field(hash=False)

    def __call__(self, step: int, total: int) -> float:
        """The number in force at an update.

        Args:
            step: Updates made since the begin of the smoothing, from 0.
            total: Updates that the whole run makes, at least 1.
        """
        return self.function(step, total, **self.parameters)

    @property
    def needs_total(self) -> bool:
        """Whether it depends on the total number of updates."""
        return self.function in (linear, cosine)

    def plain(self) -> Any:
        """What :func:`build_schedule` makes this schedule from: a number, or a dict."""
        if self.function is constant:
            return self.parameters['value']
        return {'type': self.function.__name__, **self.parameters}

    def __str__(self) -> str:
        if self.function is constant:
            return f'{self.parameters["value"]:g}'
        inside = ', '.join(f'{name}={value:g}' for name, value in self.parameters.items())
        return f'{self.function.__name__}({inside})'


# The annealed schedules start at 1, and keep_prob must stay below 1.
KEEP_PROB_SCHEDULES = {f.__name__: f for f in (constant, linear, cosine)}
MOMENTUM_SCHEDULES = {f.__name__: f for f in (constant, linear, cosine, annealed, exp_annealed)}


def build_schedule(
    key: str,
    value: Any,
    functions: Mapping[str, Callable[..., float]],
    check: Callable[[str, Any], float],
) -> Schedule:
    """Turn an option's value into a schedule.

    Args:
        key: The option's name, for messages.
        value: A number; a dict of ``type`` (a name in ``functions``) and its parameters; or a
            schedule, which is returned.
        functions: The schedules that may be named.
        check: Called as ``check(key, number)`` for each value of the schedule; returns it as a
            float or raises.

    Raises:
        OptionError: If the value is none of these, or a type, parameter or number is invalid.
    """
    if isinstance(value, Schedule):
        return value
    if not isinstance(value, Mapping):
        return Schedule(constant, {'value': check(key, value)})
    given = dict(value)
    if 'type' not in given:
        names = ', '.join(repr(name) for name in functions)
        raise OptionError(f'{key} must have a type, one of {names}, got {given!r}')
    function = functions[check_choice(f'{key}.type', given.pop('type'), functions)]
    wanted = list(inspect.signature(function).parameters)[2:]
    check_keys(f'{key}.type={function.__name__!r}', given, wanted)
    parameters = {}
    for name in wanted:
        if name not in given:
            raise OptionError(f'{key} must have {name!r}, a number, got {dict(value)!r}')
        full = f'{key}.{name}'
        if name == 'gamma':
            parameters[name] = check_number(full, given[name], 0, math.inf, open_low=True)
        else:
            parameters[name] = check(full, given[name])
    return Schedule(function, parameters)


def check_keep_prob(key: str, value: Any) -> float:
    """Return ``value`` as a float if it is in [0, 1).

    Raises:
        OptionError: If it is not.
    """
    return check_number(key, value, 0, 1, open_high=True)


def keep_prob_schedule(key: str, value: Any) -> Schedule:
    """The schedule of a ``keep_prob``: values in [0, 1).

    Raises:
        OptionError: As :func:`build_schedule`.
    """
    return build_schedule(key, value, KEEP_PROB_SCHEDULES, check_keep_prob)


def momentum_schedule(key: str, value: Any) -> Schedule:
    """The schedule of a ``momentum``, the share of the new value: a number in (0, 1].

    A schedule may reach 0, as BYOL's does at its end, but must not be 0 throughout.

    Raises:
        OptionError: As :func:`build_schedule`.
    """
    changing = isinstance(value, (Mapping, Schedule))

    def check(name: str, number: Any) -> float:
        return check_number(name, number, 0, 1, open_low=not changing)

    schedule = build_schedule(key, value, MOMENTUM_SCHEDULES, check)
    if schedule.function in (constant, linear, cosine) and not any(schedule.parameters.values()):
        raise OptionError(f'{key} must not be 0 throughout, got {value!r}')
    return schedule
