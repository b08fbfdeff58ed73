# SPDX-License-Identifier: Apache-2.0
"""Record the settings of each update of a teacher, in plain types for a checkpoint.

Picks are functions of the seed, the step and the names, so the record is enough to compute later
where each unit of the teacher came from: see :mod:`~se_mm.history.provenance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Optional, Union

from se_mm.smoothing.options import OptionError, check_choice, check_count
from se_mm.smoothing.schedules import MOMENTUM_SCHEDULES, Schedule, running_mean
from se_mm.smoothing.settings import COPY, GRANULARITIES, Rule
from se_mm.smoothing.smoother import Smoother

_FUNCTIONS = {**MOMENTUM_SCHEDULES, 'running_mean': running_mean}


class SmoothedTensors(NamedTuple):
    """The tensors of one rule, whose momentum is None for an average without a momentum."""

    rule: Rule
    shapes: Mapping[str, tuple[int, ...]]  # By name in the student's model.


@dataclass(frozen=True)
class Segment:
    """Consecutive updates with the same settings."""

    begin: int  # First update step, from 0.
    known: bool = False  # False for updates that se_mm did not make.
    seed: int = 0  # Of the picks.
    total: int = 1  # Updates of the whole run, for the schedules.
    interval: int = 1  # Update steps per smoothing step: one of them smooths.
    skipped: frozenset[int] = frozenset()  # Steps at which the student was not finite.
    copied: bool = False  # Whether everything was copied just before the first step.
    rules: tuple[SmoothedTensors, ...] = ()
    followed: frozenset[str] = frozenset()  # Copied at every step. Others did not change.

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the smoothed tensors, by name."""
        return {name: shape for some in self.rules for name, shape in some.shapes.items()}

    def rule_of(self, name: str) -> Union[Rule, str, None]:
        """Return the rule of a tensor, 'copy', or None if it did not change."""
        rules = (some.rule for some in self.rules if name in some.shapes)
        return next(rules, COPY if name in self.followed else None)


class History:
    """The segments of a running training, oldest first, as saved in its checkpoints."""

    def __init__(self, segments: Iterable[Mapping[str, Any]] = ()) -> None:
        self.segments: list[dict[str, Any]] = [dict(segment) for segment in segments]

    def go_on(self, step: int, settings: Mapping[str, Any]) -> None:
        """Begin a segment after ``step`` updates, unless the settings equal those of the last."""
        if step == 0:  # The first update copies everything.
            self.segments = []
        elif not self.segments:
            self.segments = [{'begin': 0, 'known': False}]
        if self.segments and settings.items() <= self.segments[-1].items():
            return
        segment = {'begin': step, 'known': True, 'copied': False, 'skipped': [], **settings}
        if self.segments and self.segments[-1]['begin'] == step:
            # The last segment has no updates.
            segment['copied'] = self.segments.pop().get('copied', False)
        self.segments.append(segment)

    def skip(self, step: int) -> None:
        """Record that an update is skipped."""
        self.segments[-1]['skipped'].append(step)

    def copy(self, step: int) -> None:
        """Record that after ``step`` updates everything is copied, which counts as none."""
        if step == 0:
            return
        if self.segments[-1]['begin'] != step:
            self.segments.append({**self.segments[-1], 'begin': step, 'skipped': []})
        self.segments[-1]['copied'] = True


def settings_of(
    smoother: Smoother, inherited: Optional[Schedule], seed: int, total: int, interval: int
) -> dict[str, Any]:
    """Return the settings that a bound smoother's updates depend on, in plain types.

    ``inherited`` is the schedule of the average that the teacher had before, None if unknown; the
    others are as in :class:`Segment`.
    """
    rules: dict[Rule, dict[str, Any]] = {}
    followed = []
    for member, pair in smoother.pairs.items():
        rule = member.rule
        if isinstance(rule, Rule):
            plain = {
                'keep_prob': _plain(rule.keep_prob),
                'momentum': _plain(rule.momentum or inherited),
                'match_horizon': rule.match_horizon,
                'granularity': rule.granularity,
                'tensors': {},
            }
            tensors = rules.setdefault(rule, plain)['tensors']
            tensors[member.name] = list(pair.teacher.shape)
        elif rule == COPY and pair.teacher.is_floating_point():
            followed.append(member.name)
    settings = {'seed': seed, 'total': total, 'interval': interval}
    return {**settings, 'rules': list(rules.values()), 'followed': followed}


def read_history(saved: Any, updates: int) -> tuple[Segment, ...]:
    """Read the segments in a checkpoint, saved as :attr:`History.segments`, after some updates.

    Raises:
        OptionError: If they are damaged.
    """
    try:
        segments = tuple(map(_segment, saved))
        begins = [segment.begin for segment in segments]
        first, last = (begins[0], begins[-1]) if begins else (updates, 0)
        if begins != sorted(set(begins)) or (updates and first) or last > updates:
            raise ValueError(f'segments that begin at {begins} of {updates} updates')
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        what = f'{type(error).__name__}, {" ".join(str(error).split())[:200]}'
        raise OptionError(f'the history in the checkpoint is damaged: {what}') from error
    return segments


def _segment(saved: Mapping[str, Any]) -> Segment:
    if not saved['known']:
        return Segment(check_count('begin', saved['begin']))
    values = {option.name: saved[option.name] for option in fields(Segment)}
    values['skipped'] = frozenset(check_count('skipped', step) for step in saved['skipped'])
    values['rules'] = tuple(map(_rule, saved['rules']))
    values['followed'] = frozenset(saved['followed'])
    for key, low in (('begin', 0), ('seed', 0), ('total', 1), ('interval', 1)):
        check_count(key, saved[key], low)
    return Segment(**values)


def _rule(saved: Mapping[str, Any]) -> SmoothedTensors:
    rule = Rule(
        _schedule(saved['keep_prob']),
        # 'other' is an average without a momentum.
        None if saved['momentum'] == 'other' else _schedule(saved['momentum']),
        bool(saved['match_horizon']),
        check_choice('granularity', saved['granularity'], GRANULARITIES),
    )
    return SmoothedTensors(rule, {name: tuple(shape) for name, shape in saved['tensors'].items()})


def _plain(schedule: Optional[Schedule]) -> Any:
    return (
        'other' if schedule is None else {'type': schedule.function.__name__, **schedule.parameters}
    )


def _schedule(saved: Any) -> Schedule:
    """Return the inverse of :func:`_plain`."""
    parameters = {key: value for key, value in saved.items() if key != 'type'}
    schedule = Schedule(_FUNCTIONS[saved['type']], parameters)
    schedule(0, 1)  # Fails if a parameter is missing.
    return schedule
