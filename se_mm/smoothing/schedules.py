# SPDX-License-Identifier: Apache-2.0
"""Schedules of keep_prob and momentum: pure functions of the update step.

Each takes the update step and the total number of updates, both counted from the first update.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from se_mm.smoothing.options import OptionError, check_choice, check_keys, check_number


def constant(step: int, total: int, value: float) -> float:
    """``value`` at every step."""
    return value


def linear(step: int, total: int, start: float, end: float) -> float:
    """From ``start`` at step 0 linearly to ``end`` at step ``total``, then ``end``."""
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
    """One of the functions above, with all its arguments except ``step`` and ``total``."""

    function: Callable[..., float]
    parameters: Mapping[str, float] = field(hash=False)

    def __call__(self, step: int, total: int) -> float:
        """The value after ``step`` updates of a run of ``total`` (at least 1)."""
        return self.function(step, total, **self.parameters)

    @property
    def needs_total(self) -> bool:
        """Whether it depends on the total number of updates."""
        return self.function in (linear, cosine)

    def plain(self) -> Any:
        """The schedule as in a config: a number, or a dict."""
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


def _build(
    key: str,
    value: Any,
    functions: Mapping[str, Callable[..., float]],
    check: Callable[[str, Any], float],
) -> Schedule:
    """Make a schedule of a number, a schedule, or a dict of a ``type`` and its parameters.

    ``check(key, number)`` returns each value as a float or raises.
    """
    if isinstance(value, Schedule):
        return value
    if not isinstance(value, Mapping):
        return Schedule(constant, {'value': check(key, value)})
    function = functions[check_choice(f'{key}.type', value.get('type'), functions)]
    names = list(inspect.signature(function).parameters)[2:]
    check_keys(f'{key}.type={function.__name__!r}', value, ['type', *names])
    parameters = {}
    for name in names:
        full, number = f'{key}.{name}', value.get(name)
        if name == 'gamma':
            parameters[name] = check_number(full, number, 0, math.inf, open_low=True)
        else:
            parameters[name] = check(full, number)
    return Schedule(function, parameters)


def keep_prob_schedule(key: str, value: Any) -> Schedule:
    """The schedule of a ``keep_prob``: values in [0, 1).

    Args:
        key: The option's name, for messages.
        value: A number, a dict of ``type`` and its parameters, or a schedule, which is returned.

    Raises:
        OptionError: If the value is none of these, or a type, parameter or number is invalid.
    """
    check = partial(check_number, low=0, high=1, open_high=True)
    return _build(key, value, KEEP_PROB_SCHEDULES, check)


def momentum_schedule(key: str, value: Any) -> Schedule:
    """The schedule of a ``momentum``, the weight of the new value: a number in (0, 1].

    A schedule may reach 0, as BYOL's does at its end, but must not be 0 throughout. Otherwise as
    :func:`keep_prob_schedule`.
    """
    changing = isinstance(value, (Mapping, Schedule))
    check = partial(check_number, low=0, high=1, open_low=not changing)
    schedule = _build(key, value, MOMENTUM_SCHEDULES, check)
    if schedule.function in (constant, linear, cosine) and not any(schedule.parameters.values()):
        raise OptionError(f'{key} must not be 0 throughout, got {value!r}')
    return schedule
