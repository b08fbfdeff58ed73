# SPDX-License-Identifier: Apache-2.0
"""Checks of what a user may write in a config, each ending in one clear line."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any


class OptionError(ValueError):
    """A config asks for something impossible.

    The message is a single line that names the key, the value given and what is allowed, so that
    a command line can print it in place of a traceback.
    """


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """A hint at the nearest right name, with a leading space, or nothing.

    Args:
        name: What was given.
        choices: The right names.
    """
    near = difflib.get_close_matches(str(name), list(choices), n=1)
    return f' Did you mean {near[0]!r}?' if near else ''


def check_choice(key: str, value: Any, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        OptionError: If it is not.
    """
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        allowed = ', '.join(repr(choice) for choice in choices)
        raise OptionError(
            f'{key}={value!r} is not allowed: one of {allowed}.{did_you_mean(value, choices)}'
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
    """Return ``value`` as a float if it is a finite real number between ``low`` and ``high``.

    Args:
        key: The config key, for the message.
        value: What was given. Booleans are refused, they are never meant as numbers here.
        low: Smallest value.
        high: Largest value.
        open_low: Whether ``low`` itself is excluded.
        open_high: Whether ``high`` itself is excluded.

    Raises:
        OptionError: If it is not a number, NaN, or out of range.
    """
    allowed = f'a number in {"(" if open_low else "["}{low:g}, {high:g}{")" if open_high else "]"}'
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(f'{key}={value!r} is not allowed: {allowed}.')
    number = float(value)
    below = number <= low if open_low else number < low
    above = number >= high if open_high else number > high
    if math.isnan(number) or below or above:
        raise OptionError(f'{key}={value!r} is not allowed: {allowed}.')
    return number


def check_count(key: str, value: Any, low: int = 0) -> int:
    """Return ``value`` if it is a whole number of at least ``low``.

    Raises:
        OptionError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise OptionError(f'{key}={value!r} is not allowed: a whole number of at least {low}.')
    return value


def check_flag(key: str, value: Any) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        OptionError: If it is not.
    """
    if not isinstance(value, bool):
        raise OptionError(f'{key}={value!r} is not allowed: True or False.')
    return value


def check_keys(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse the first key that is not among ``allowed``.

    Args:
        what: Whose keys they are, for the message.
        given: The keys that were given.
        allowed: The keys that exist.

    Raises:
        OptionError: If one does not exist.
    """
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            raise OptionError(
                f'{what} has no option {key!r}: it has {", ".join(allowed)}.'
                f'{did_you_mean(key, allowed)}'
            )
