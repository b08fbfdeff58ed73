# SPDX-License-Identifier: Apache-2.0
"""All options of a teacher, in one frozen dataclass that validates them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, Optional, Union

from torch import Tensor

from se_mm.smoothing.options import (
    OptionError,
    check_choice,
    check_count,
    check_flag,
    check_keys,
    did_you_mean,
)
from se_mm.smoothing.schedules import Schedule, keep_prob_schedule, momentum_schedule

GRANULARITIES = ('tensor', 'layer', 'channel', 'element')
BUFFERS = ('copy', 'average_norms', 'average', 'recalibrate', 'skip')
COPY, RECALIBRATE, SKIP = 'copy', 'recalibrate', 'skip'
AVERAGE_BUFFERS, AVERAGE_NORMS = 'average', 'average_norms'

Average = Union[None, float, Callable[[Tensor, Tensor], None]]
"""How a picked unit is updated: None copies the student's value, a float in [0, 1] is the weight of
that value, and a function ``(teacher, student)`` averages in place."""


@dataclass(frozen=True)
class Rule:
    """How some tensors are smoothed: the options of :class:`Settings` with these names."""

    keep_prob: Schedule
    momentum: Optional[Schedule]
    match_horizon: bool
    granularity: str

    @property
    def copies(self) -> bool:
        """Whether a picked unit is always copied: a momentum of 1."""
        return self.momentum is not None and self.momentum.plain() == 1

    def average(
        self, step: int, total: int, inherited: Optional[Callable[[int], Average]] = None
    ) -> Average:
        """How a picked unit is updated after ``step`` updates of a run of ``total``.

        ``inherited`` returns the average by update step, where the momentum is None. Raises
        OptionError if ``match_horizon`` is set and that average is not a weight.
        """
        if self.momentum is not None:
            weight: Average = self.momentum(step, total)
        else:
            assert inherited is not None
            weight = inherited(step)
        if self.match_horizon and weight is not None:
            if callable(weight):
                raise OptionError(
                    'match_horizon=True needs an average that is a momentum, and this model has '
                    'another: set momentum, or match_horizon=False'
                )
            weight = min(1.0, weight / (1 - self.keep_prob(step, total)))
        # With a weight of 1 the formula would keep the teacher's infinities.
        return None if weight == 1 else weight

    def __str__(self) -> str:
        parts = [f'keep_prob {self.keep_prob}']
        if self.momentum is None:
            parts.append("the model's own average")
        elif not self.copies:
            parts.append(f'momentum {self.momentum}')
        if self.match_horizon:
            parts.append('matched horizon')
        return ', '.join([*parts, f'{self.granularity} units'])


def _by(check: Callable[[str, Any], Any]) -> Mapping[str, Any]:
    """Metadata of an option: ``check(name, value)`` returns the value or raises OptionError."""
    return {'check': check}


def _one_of(*choices: str) -> Callable[[str, Any], str]:
    return partial(check_choice, choices=choices)


_positive = partial(check_count, low=1)


def _check_name(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise OptionError(f'{key} must be a name, got {value!r}')
    return value


def _check_student(key: str, value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    right = isinstance(names, Sequence) and all(isinstance(n, str) and n for n in names)
    if not right or not names:
        raise OptionError(
            f'{key} must be the dotted name of a module or a list of such names, got {value!r}'
        )
    return value


def _check_overrides(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise OptionError(
            f"{key} must be a dict of name part -> dict, 'copy' or 'skip', got {value!r}"
        )
    return value


@dataclass(frozen=True)
class Settings:
    """All options of a teacher, validated once.

    With p the keep_prob and m the momentum, a moving average (TMA) is ``t <- (1 - m) t + m s`` for
    each unit t of the teacher and s of its student. SE keeps t with probability p and otherwise
    copies s; its expected value is TMA with momentum ``1 - p``. STS keeps t with probability p and
    otherwise averages as TMA does; its expected value is TMA with momentum ``(1 - p) m``.

    Attributes:
        keep_prob: Probability in [0, 1) that a unit is kept at an update, or a schedule:
            ``dict(type='cosine', start=0.5, end=0.99)`` or ``'linear'``. An SE teacher with the
            horizon of an average with momentum m has ``keep_prob=1 - m``.
        momentum: Weight in (0, 1] of the new value in a picked unit; 1 copies. Or a schedule:
            ``'linear'`` and ``'cosine'`` with ``start`` and ``end``, ``'annealed'`` and
            ``'exp_annealed'`` with ``value`` and ``gamma``. None: the average that the model or
            the config already has.
        match_horizon: Use ``momentum / (1 - keep_prob)``, at most 1, so that the teacher has the
            horizon of the average alone.
        granularity: What a unit is: ``'tensor'``; ``'layer'``, all tensors of one module without
            those of its submodules; ``'channel'``, one index of their dimension 0; or
            ``'element'``.
        overrides: Part of a tensor's name in the student -> ``dict(keep_prob=, momentum=,
            granularity=)``, ``'copy'`` (equal the student after every update) or ``'skip'`` (keep
            the value of the first update). The longest matching part wins, as in ``custom_keys``.
        buffers: Batch norm statistics and other buffers. ``'copy'``: the student's at every update.
            ``'average_norms'``: average batch-norm statistics like parameters, and copy the others.
            ``'average'``: average all that are persistent and floating-point, as the stock
            ``update_buffers=True``. ``'skip'``: keep those of the first update. ``'recalibrate'``:
            copy, and compute the teacher's batch-norm statistics on training batches before each
            validation and test and at the end of the training. None: as the averaged model in the
            model or a stock option says; otherwise ``'average_norms'`` for STS, and ``'copy'`` for
            SE and for a moving average alone (``keep_prob=0``).
        recalibrate_batches: Training batches per rank for ``buffers='recalibrate'``, at least 1.
        fp32_teacher: Average a bfloat16 or float16 teacher in a float32 copy, since its own
            precision would round small updates away.
        interval: Number of opportunities per update, at least 1. None: that of the averaged model
            that is replaced, or 1.
        begin_iter: Iteration, counted from 0, at which smoothing begins. Until then the teacher
            equals its student.
        begin_epoch: The same in epochs, counted from 1 as in ``EMAHook``. Set at most one of them.
        every_iter: Under gradient accumulation, update at every iteration instead of after each
            step of the optimizer.
        seed: Seed of the picks. None: the run's.
        diff_rank_picks: Make different picks on each rank, as the released code does. The teachers
            then drift apart, and only rank 0's is saved.
        initial_teacher: The teacher of a new training. ``'loaded'``: the one in the checkpoint of
            ``load_from`` if it has one, otherwise the student. ``'student'``: always the student.
            A resumed run always continues with its own teacher.
        check_teachers: Updates between two checks that the teacher is the same on all ranks and
            that nothing else has changed it since its last update; a difference ends the run. 0:
            only the first iterations check for other changes.
        check_finite: Opportunities between two checks that the student is finite. The first
            opportunity and every checkpoint are always checked. 0: never check.
        non_finite: What a failed check does. ``'stop'``: end the run and name the tensor.
            ``'skip'``: skip the update and count it in ``train/skipped_updates``; needs
            ``check_finite=1``.
        curves: Log ``teacher/keep_prob``, ``teacher/momentum``, ``teacher/taken`` (fraction of
            units picked) and ``teacher/distance``, ``|t - s| / |s|``. The distance of each part of
            the model, ``teacher/distance/PART``, is in ``vis_data`` and on TensorBoard.
        kind: Kind of teacher: ``'averaged'``, ``'pair'``, ``'method'``, ``'shadow'`` or one of your
            own. None: found from the hook's other options and the model.
        teacher: Dotted name of the teacher in the model. None: the only one.
        student: Dotted name of its student, or a list with the names of its parts. None: found.
        update_method: Name of the model's method that updates its teacher. None: a known one.
        evaluate_on: For a shadow, what is validated and tested: ``'teacher'``, ``'student'`` or
            ``'both'``, where the student's metrics end in ``_origin``. None: the teacher.

    Raises:
        OptionError: If an option is invalid.
    """

    keep_prob: Any = field(default=0.99, metadata=_by(keep_prob_schedule))
    momentum: Any = field(default=1.0, metadata=_by(momentum_schedule))
    match_horizon: bool = field(default=False, metadata=_by(check_flag))
    granularity: str = field(default='tensor', metadata=_by(_one_of(*GRANULARITIES)))
    overrides: Mapping[str, Any] = field(default_factory=dict, metadata=_by(_check_overrides))
    buffers: Optional[str] = field(default=None, metadata=_by(_one_of(*BUFFERS)))
    recalibrate_batches: int = field(default=50, metadata=_by(_positive))
    fp32_teacher: bool = field(default=True, metadata=_by(check_flag))
    interval: Optional[int] = field(default=None, metadata=_by(_positive))
    begin_iter: int = field(default=0, metadata=_by(check_count))
    begin_epoch: int = field(default=0, metadata=_by(check_count))
    every_iter: bool = field(default=False, metadata=_by(check_flag))
    seed: Optional[int] = field(default=None, metadata=_by(check_count))
    diff_rank_picks: bool = field(default=False, metadata=_by(check_flag))
    initial_teacher: str = field(default='loaded', metadata=_by(_one_of('loaded', 'student')))
    check_teachers: int = field(default=0, metadata=_by(check_count))
    check_finite: int = field(default=100, metadata=_by(check_count))
    non_finite: str = field(default='stop', metadata=_by(_one_of('stop', 'skip')))
    curves: bool = field(default=True, metadata=_by(check_flag))
    kind: Optional[str] = field(default=None, metadata=_by(_check_name))
    teacher: Optional[str] = field(default=None, metadata=_by(_check_name))
    student: Union[str, Sequence[str], None] = field(default=None, metadata=_by(_check_student))
    update_method: Optional[str] = field(default=None, metadata=_by(_check_name))
    evaluate_on: Optional[str] = field(
        default=None, metadata=_by(_one_of('teacher', 'student', 'both'))
    )

    def __post_init__(self) -> None:
        """Validate every option, and convert those that may be schedules."""
        for option in fields(self):
            value = getattr(self, option.name)
            optional = option.default is None or option.name == 'momentum'
            if not (optional and value is None):
                checked = option.metadata['check'](option.name, value)
                object.__setattr__(self, option.name, checked)
        self._check_combinations()
        self.rules  # noqa: B018 -- validates the overrides

    @cached_property
    def default(self) -> Rule:
        """The rule of tensors without an override."""
        return Rule(self.keep_prob, self.momentum, self.match_horizon, self.granularity)

    @cached_property
    def rules(self) -> Mapping[str, Union[Rule, str]]:
        """Part of a tensor's name -> its rule, ``'copy'`` or ``'skip'``: the overrides."""
        return {part: self._override(part, value) for part, value in self.overrides.items()}

    @property
    def default_buffers(self) -> str:
        """The policy of buffers where neither an option nor an averaged model says one."""
        stock = self.keep_prob.plain() == 0
        return COPY if stock or self.default.copies else AVERAGE_NORMS

    def part_of(self, name: str) -> Optional[str]:
        """The key of the override that applies to the tensor with this name, or None."""
        # Ties go to the alphabetically first, as in OpenMMLab's custom_keys.
        return max((part for part in sorted(self.rules) if part in name), key=len, default=None)

    def rule_of(self, name: str) -> Union[Rule, str]:
        """The rule of the tensor with this name, ``'copy'`` or ``'skip'``."""
        part = self.part_of(name)
        return self.default if part is None else self.rules[part]

    def check_matches(self, names: Iterable[str]) -> None:
        """Raise OptionError for an override that matches none of ``names``; it suggests one."""
        names = list(names)
        for part in self.rules:
            if not any(part in name for name in names):
                words = [name.split('.') for name in names]
                near = {word for parts in words for word in parts}
                near.update(*(accumulate(parts, '{}.{}'.format) for parts in words))
                example = f', a part of a name such as {names[0]!r}' if names else ''
                raise OptionError(
                    f'overrides[{part!r}] must match a tensor of the student{example}.'
                    f'{did_you_mean(part, sorted(near))}'
                )

    def plain(self) -> dict[str, Any]:
        """The options as a config has them, in types that a checkpoint may hold."""
        return {option.name: _plain(getattr(self, option.name)) for option in fields(self)}

    def _override(self, part: Any, value: Any) -> Union[Rule, str]:
        key = f'overrides[{part!r}]'
        if not isinstance(part, str) or not part:
            raise OptionError(f'a key of overrides must be a part of a tensor name, got {part!r}')
        if isinstance(value, str):
            return check_choice(key, value, (COPY, SKIP))
        if not isinstance(value, Mapping):
            raise OptionError(f"{key} must be a dict, 'copy' or 'skip', got {value!r}")
        averages = not self.default.copies
        check_keys(key, value, ['keep_prob', 'granularity'] + ['momentum'] * averages)
        checks = {option.name: option.metadata['check'] for option in fields(self)}
        changes = {name: checks[name](f'{key}.{name}', given) for name, given in value.items()}
        return replace(self.default, **changes)

    def _check_combinations(self) -> None:
        if self.begin_iter and self.begin_epoch:
            raise OptionError(
                f'begin_iter and begin_epoch must not both be set, got {self.begin_iter} and '
                f'{self.begin_epoch}: leave one of them 0'
            )
        if self.check_teachers and self.diff_rank_picks:
            raise OptionError(
                f'check_teachers must be 0 with diff_rank_picks=True, where teachers differ by '
                f'design, got {self.check_teachers}'
            )
        if self.buffers == RECALIBRATE and self.diff_rank_picks:
            raise OptionError(
                "buffers='recalibrate' needs equal teachers on all ranks, got "
                'diff_rank_picks=True: change one of them'
            )
        if self.non_finite == 'skip' and self.check_finite != 1:
            raise OptionError(
                f"non_finite='skip' needs check_finite=1, so that every student is checked, got "
                f'check_finite={self.check_finite}'
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
