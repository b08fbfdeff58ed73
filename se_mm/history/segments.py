# SPDX-License-Identifier: Apache-2.0
"""Record the settings of each update of a teacher, in plain types for a checkpoint.

Picks are functions of the seed, the step and the names, so the record is enough to compute later
where each unit of the teacher came from: see :mod:`~se_mm.history.provenance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from se_mm.smoothing.options import OptionError
from se_mm.smoothing.schedules import (
    KEEP_PROB_SCHEDULES,
    MOMENTUM_SCHEDULES,
    Schedule,
    running_mean,
)
from se_mm.smoothing.settings import COPY, GRANULARITIES, Rule
from se_mm.smoothing.smoother import Smoother

OTHER = 'other'
"""Stands for an average without a momentum."""

_FUNCTIONS = {**KEEP_PROB_SCHEDULES, **MOMENTUM_SCHEDULES, 'running_mean': running_mean}


@dataclass(frozen=True)
class SmoothedTensors:
    """The tensors of one rule.

    Attributes:
        rule: How they are smoothed; its momentum is None for an average without a momentum.
        shapes: Name in the student's model -> shape, in the model's order.
    """

    rule: Rule
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Segment:
    """Consecutive updates with the same settings.

    Attributes:
        begin: First update step, from 0.
        known: Whether the settings are known; those before se_mm took over are not.
        seed: Seed of the picks.
        total: Updates of the whole run, for the schedules.
        interval: Update steps per smoothing step: one of them smooths.
        skipped: Update steps that were skipped because the student was not finite.
        copied: Whether everything was copied just before the first step, as before the begin of
            smoothing.
        rules: The smoothed tensors, by rule.
        followed: Names of tensors that were copied at every step. All others did not change.
    """

    begin: int
    known: bool = False
    seed: int = 0
    total: int = 1
    interval: int = 1
    skipped: frozenset[int] = frozenset()
    copied: bool = False
    rules: tuple[SmoothedTensors, ...] = ()
    followed: frozenset[str] = frozenset()

    def moves(self, step: int) -> bool:
        """Return whether units were picked at this step."""
        return step % self.interval == 0 and step not in self.skipped

    def smoothing(self, name: str) -> Optional[Rule]:
        """Return the rule of the tensor with this name; None if it was not smoothed."""
        return next((some.rule for some in self.rules if name in some.shapes), None)


class History:
    """The segments of a running training, as saved in its checkpoints.

    Args:
        segments: The segments of the checkpoint that the run resumes from.

    Attributes:
        segments: As :func:`read_history` reads them, oldest first.
    """

    def __init__(self, segments: Iterable[Mapping[str, Any]] = ()) -> None:
        self.segments: list[dict[str, Any]] = [dict(segment) for segment in segments]

    def go_on(self, step: int, settings: Mapping[str, Any]) -> None:
        """Begin a new segment, unless the settings equal those of the last.

        Args:
            step: Updates made.
            settings: Settings of the coming updates, see :func:`settings_of`.
        """
        if step == 0:  # The first update copies everything.
            self.segments = []
        elif not self.segments:
            self.segments = [{'begin': 0, 'known': False}]
        if self.segments and all(
            self.segments[-1].get(key) == value for key, value in settings.items()
        ):
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
        """Record that everything is copied without counting as an update.

        Args:
            step: Updates made.
        """
        if step == 0:
            return
        if self.segments[-1]['begin'] != step:
            self.segments.append({**self.segments[-1], 'begin': step, 'skipped': []})
        self.segments[-1]['copied'] = True


def settings_of(
    smoother: Smoother, inherited: Optional[Schedule], seed: int, total: int, interval: int
) -> dict[str, Any]:
    """Return the settings that the updates of a smoother depend on, in plain types.

    Args:
        smoother: The smoother, bound to a student.
        inherited: The schedule of the average that the teacher had before; None if unknown.
        seed: Seed of the picks.
        total: Updates of the whole run.
        interval: Update steps from one smoothing step to the next.
    """
    rules: dict[Rule, dict[str, list[int]]] = {}
    followed = []
    for member, pair in smoother.pairs.items():
        if isinstance(member.rule, Rule):
            rules.setdefault(member.rule, {})[member.name] = list(pair.teacher.shape)
        elif member.rule == COPY and pair.teacher.is_floating_point():
            followed.append(member.name)
    return {
        'seed': seed,
        'total': total,
        'interval': interval,
        'rules': [
            {
                'keep_prob': _plain(rule.keep_prob),
                'momentum': _plain(rule.momentum or inherited),
                'match_horizon': rule.match_horizon,
                'granularity': rule.granularity,
                'tensors': shapes,
            }
            for rule, shapes in rules.items()
        ],
        'followed': followed,
    }


def read_history(saved: Any, updates: int) -> tuple[Segment, ...]:
    """Read the segments in a checkpoint.

    Args:
        saved: The saved value of :attr:`History.segments`.
        updates: Updates made.

    Raises:
        OptionError: If it is damaged.
    """
    try:
        segments = tuple(_segment(some) for some in saved)
        begins = [segment.begin for segment in segments]
        if begins != sorted(set(begins)) or (updates and begins[:1] != [0]):
            raise ValueError(f'segments that begin at {begins}')
        if begins and begins[-1] > updates:
            raise ValueError(f'a segment that begins at {begins[-1]} of {updates} updates')
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise OptionError(
            f'the history in the checkpoint is damaged: {type(error).__name__}, {reason}'
        ) from error
    return segments


def _plain(value: Optional[Schedule]) -> Any:
    return OTHER if value is None else {'type': value.function.__name__, **value.parameters}


def _schedule(value: Mapping[str, Any]) -> Schedule:
    parameters = {key: float(number) for key, number in value.items() if key != 'type'}
    if value['type'] == 'running_mean':
        parameters['interval'] = int(parameters['interval'])
    schedule = Schedule(_FUNCTIONS[value['type']], parameters)
    schedule(0, 1)  # Fails if a parameter is missing.
    return schedule


def _count(value: Any, low: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f'an integer must be >= {low}, got {value!r}')
    return value


def _segment(saved: Mapping[str, Any]) -> Segment:
    """Read and check one segment."""
    if not saved['known']:
        return Segment(_count(saved['begin']))
    rules = []
    for some in saved['rules']:
        momentum = some['momentum']
        rule = Rule(
            _schedule(some['keep_prob']),
            None if momentum == OTHER else _schedule(momentum),
            bool(some['match_horizon']),
            GRANULARITIES[GRANULARITIES.index(some['granularity'])],
        )
        shapes = {
            str(name): tuple(_count(size) for size in shape)
            for name, shape in some['tensors'].items()
        }
        rules.append(SmoothedTensors(rule, shapes))
    return Segment(
        begin=_count(saved['begin']),
        known=True,
        seed=_count(saved['seed']),
        total=_count(saved['total'], 1),
        interval=_count(saved['interval'], 1),
        skipped=frozenset(_count(step) for step in saved['skipped']),
        copied=bool(saved['copied']),
        rules=tuple(rules),
        followed=frozenset(str(name) for name in saved['followed']),
    )
