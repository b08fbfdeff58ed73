# SPDX-License-Identifier: Apache-2.0
"""How a tensor is smoothed: keep_prob, momentum and granularity, for all tensors or by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional, Protocol, Union

from torch import Tensor

from se_mm.smoothing.options import OptionError, check_choice, check_keys, did_you_mean
from se_mm.smoothing.schedules import Schedule, keep_prob_schedule, momentum_schedule
from se_mm.smoothing.units import GRANULARITIES
from se_mm.smoothing.update import Average


class AverageFunction(Protocol):
    """An averaging rule that is not a momentum, such as mmengine's ``avg_func``."""

    def __call__(self, teacher: Tensor, student: Tensor, step: int) -> None:
        """Average ``student`` into ``teacher``, in place.

        Args:
            teacher: Floating tensor.
            student: Tensor of its shape, dtype and device.
            step: The update step, at least 0.
        """


@dataclass(frozen=True)
class Rule:
    """How the tensors it holds for are smoothed.

    Attributes:
        keep_prob: Probability in [0, 1) that a unit is kept at an update.
        momentum: Share of the new value in a unit that is not kept, in [0, 1]; or another
            averaging rule; or None, where it is copied.
        match_horizon: Whether the momentum in force is ``momentum / (1 - keep_prob)``, at most 1,
            so that in the mean the teacher moves by ``momentum`` at each update.
        granularity: One of :data:`~se_mm.smoothing.units.GRANULARITIES`.
    """

    keep_prob: Schedule
    momentum: Union[Schedule, AverageFunction, None]
    match_horizon: bool
    granularity: str

    def average(self, step: int, total: int) -> Average:
        """How a picked unit follows at an update: see :data:`~se_mm.smoothing.update.Average`.

        Args:
            step: The update step, at least 0.
            total: Updates that the whole run makes.
        """
        momentum = self.momentum
        if momentum is None:
            return None
        if not isinstance(momentum, Schedule):
            function = momentum
            return lambda teacher, student: function(teacher, student, step)
        weight = momentum(step, total)
        if self.match_horizon:
            weight = min(1.0, weight / (1 - self.keep_prob(step, total)))
        return weight

    def __str__(self) -> str:
        parts = [f'keep_prob {self.keep_prob}', f'{self.granularity} units']
        if self.momentum is not None:
            shown = self.momentum if isinstance(self.momentum, Schedule) else "the model's own"
            parts.insert(1, f'momentum {shown}')
        if self.match_horizon:
            parts.insert(2, 'matched horizon')
        return ', '.join(parts)


COPY = 'copy'
SKIP = 'skip'


@dataclass(frozen=True)
class Rules:
    """The rule of every tensor.

    Attributes:
        default: The rule where no override applies.
        overrides: Part of a tensor's name -> another rule, or ``'copy'``: follow the student
            at every update, or ``'skip'``: stay as the first update left it. Where several parts
            occur in a name the longest counts, as for ``paramwise_cfg``'s ``custom_keys``.
    """

    default: Rule
    overrides: Mapping[str, Union[Rule, str]]

    def part_of(self, name: str) -> Optional[str]:
        """The key of the override that holds for the tensor with this name; None: the default."""
        # custom_keys' order: of parts equally long, the alphabetically first.
        parts = sorted(sorted(self.overrides), key=len, reverse=True)
        return next((part for part in parts if part in name), None)

    def of(self, name: str) -> Union[Rule, str]:
        """The rule of the tensor with this name."""
        part = self.part_of(name)
        return self.default if part is None else self.overrides[part]

    def check_matches(self, names: Iterable[str]) -> None:
        """Refuse an override that matches none of ``names``.

        Raises:
            OptionError: Naming it, and the module that it is nearest to.
        """
        names = list(names)
        for part in self.overrides:
            if not any(part in name for name in names):
                paths = {
                    '.'.join(name.split('.')[:depth])
                    for name in names
                    for depth in range(1, name.count('.') + 2)
                }
                words = {word for name in names for word in name.split('.')}
                raise OptionError(
                    f'overrides[{part!r}] matches no tensor of the student: part of a name such '
                    f'as {names[0]!r}.{did_you_mean(part, sorted(paths | words))}'
                )


def build_rules(default: Rule, overrides: Any) -> Rules:
    """Turn the option ``overrides`` into rules.

    Args:
        default: The rule of all other tensors; what an override does not name, it takes from here.
        overrides: Dict of part of a tensor's name -> ``'copy'``, ``'skip'``, or a dict of
            ``keep_prob``, ``granularity`` and, where the default has one, ``momentum``.

    Raises:
        OptionError: If something in it is not of that form, or out of range.
    """
    if not isinstance(overrides, Mapping):
        raise OptionError(
            f"overrides={overrides!r} is not allowed: a dict of name part -> dict, 'copy' or "
            f"'skip'."
        )
    rules: dict[str, Union[Rule, str]] = {}
    for part, value in overrides.items():
        key = f'overrides[{part!r}]'
        if not isinstance(part, str) or not part:
            raise OptionError(f'{key} is not allowed: a part of a tensor name, not empty.')
        if isinstance(value, Mapping):
            rules[part] = _override(key, value, default)
        elif isinstance(value, str):
            rules[part] = check_choice(key, value, (COPY, SKIP))
        else:
            raise OptionError(f"{key}={value!r} is not allowed: a dict, 'copy' or 'skip'.")
    return Rules(default, rules)


def _override(key: str, value: Mapping[str, Any], default: Rule) -> Rule:
    """One rule of ``overrides``: ``default`` with what ``value`` names put in its place."""
    averages = default.momentum is not None
    check_keys(key, value, ['keep_prob', 'granularity'] + ['momentum'] * averages)
    changes: dict[str, Any] = {}
    if 'keep_prob' in value:
        changes['keep_prob'] = keep_prob_schedule(f'{key}.keep_prob', value['keep_prob'])
    if 'momentum' in value:
        changes['momentum'] = momentum_schedule(f'{key}.momentum', value['momentum'])
    if 'granularity' in value:
        changes['granularity'] = check_choice(
            f'{key}.granularity', value['granularity'], GRANULARITIES
        )
    return replace(default, **changes)
