# SPDX-License-Identifier: Apache-2.0
"""Checks of option values. Each error is one line: what must hold, what was given, what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any


class OptionError(ValueError):
    """An option is invalid, or does not fit the model or the run.

    The message is a single line, so that a command line tool can print it instead of a traceback.
    """


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the choice nearest to ``name``, or an empty string."""
    by_lower = {str(choice).lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1)
    return f' Did you mean {by_lower[near[0]]!r}?' if near else ''


def check_choice(key: str, value: Any, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``, else raise :class:`OptionError`."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        allowed = ', '.join(repr(choice) for choice in choices)
        raise OptionError(
            f'{key} must be one of {allowed}, got {value!r}.{did_you_mean(value, choices)}'
        )
    return value


def check_number(
    key: str,
    value: Any,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return ``value`` as a float if it is a number in a range, else raise :class:`OptionError`.

    ``open_low`` and ``open_high`` exclude that end. Booleans and NaN are rejected.
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    number = float(value) if real else math.nan
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if not (above and below):
        raise OptionError(
            f'{key} must be a number in {"(" if open_low else "["}{low:g}, {high:g}'
            f'{")" if open_high else "]"}, got {value!r}'
        )
    return number


def check_count(key: str, value: Any, low: int = 0) -> int:
    """Return ``value`` if it is an integer of at least ``low``, else raise :class:`OptionError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise OptionError(f'{key} must be an integer >= {low}, got {value!r}')
    return value


def check_flag(key: str, value: Any) -> bool:
    """Return ``value`` if it is True or False, else raise :class:`OptionError`."""
    if not isinstance(value, bool):
        raise OptionError(f'{key} must be True or False, got {value!r}')
    return value


def check_keys(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise :class:`OptionError` for the first key of ``what`` that is not ``allowed``."""
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            hint = did_you_mean(key, allowed) or f' It has {", ".join(allowed)}.'
            raise OptionError(f'{what} has no option {key!r}.{hint}')
