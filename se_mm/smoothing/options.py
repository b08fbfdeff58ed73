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
    """Suggest the choice nearest to ``name``.

    Args:
        name: What was given.
        choices: The valid names.

    Returns:
        ``" Did you mean 'x'?"`` with a leading space, or an empty string.
    """
    by_lower = {str(choice).lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1)
    return f' Did you mean {by_lower[near[0]]!r}?' if near else ''


def check_choice(key: str, value: Any, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        OptionError: If it is not.
    """
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
    """Return ``value`` as a float if it is a real number between ``low`` and ``high``.

    Args:
        key: The option's name, for the message.
        value: What was given. Booleans are rejected.
        low: Smallest value.
        high: Largest value.
        open_low: Whether ``low`` itself is excluded.
        open_high: Whether ``high`` itself is excluded.

    Raises:
        OptionError: If it is not a number, NaN, or out of range.
    """
    error = OptionError(
        f'{key} must be a number in {"(" if open_low else "["}{low:g}, {high:g}'
        f'{")" if open_high else "]"}, got {value!r}'
    )
    if isinstance(value, bool) or not isinstance(value, Real):
        raise error
    number = float(value)
    below = number <= low if open_low else number < low
    above = number >= high if open_high else number > high
    if math.isnan(number) or below or above:
        raise error
    return number


def check_count(key: str, value: Any, low: int = 0) -> int:
    """Return ``value`` if it is an integer of at least ``low``.

    Raises:
        OptionError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise OptionError(f'{key} must be an integer >= {low}, got {value!r}')
    return value


def check_flag(key: str, value: Any) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        OptionError: If it is not.
    """
    if not isinstance(value, bool):
        raise OptionError(f'{key} must be True or False, got {value!r}')
    return value


def check_keys(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Reject the first key that is not among ``allowed``.

    Args:
        what: Whose keys they are, for the message.
        given: The keys that were given.
        allowed: The valid keys.

    Raises:
        OptionError: If one is unknown.
    """
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            hint = did_you_mean(key, allowed)
            raise OptionError(
                f'{what} has no option {key!r}.{hint or " It has " + ", ".join(allowed) + "."}'
            )
