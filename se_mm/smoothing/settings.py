# SPDX-License-Identifier: Apache-2.0
"""All options of a teacher, in one frozen dataclass that validates them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
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
"""How a picked unit follows: None copies the student's value, a float in [0, 1] is the weight of
that value, and a function ``(teacher, student)`` averages in place."""


_CHOICES = {
    'granularity': GRANULARITIES,
    'buffers': BUFFERS,
    'initial_teacher': ('loaded', 'student'),
    'non_finite': ('stop', 'skip'),
    'evaluate_on': ('teacher', 'student', 'both'),
}
# The least value of each.
_COUNTS = {
    'recalibrate_batches': 1,
    'interval': 1,
    'begin_iter': 0,
    'begin_epoch': 0,
    'seed': 0,
    'check_teachers': 0,
    'check_finite': 0,
}


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
        """How a picked unit follows after ``step`` updates of a run of ``total``.

        ``inherited`` is the average in place of a momentum that is None, by update step. Raises
        OptionError if ``match_horizon`` meets one that is not a weight.
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
        parts = [f'keep_prob {self.keep_prob}', f'{self.granularity} units']
        if self.momentum is None:
            parts.insert(1, "the model's own average")
        elif not self.copies:
            parts.insert(1, f'momentum {self.momentum}')
        if self.match_horizon:
            parts.insert(2, 'matched horizon')
        return ', '.join(parts)


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

    keep_prob: Any = 0.99
    momentum: Any = 1.0
    match_horizon: bool = False
    granularity: str = 'tensor'
    overrides: Mapping[str, Any] = field(default_factory=dict)
    buffers: Optional[str] = None
    recalibrate_batches: int = 50
    fp32_teacher: bool = True
    interval: Optional[int] = None
    begin_iter: int = 0
    begin_epoch: int = 0
    every_iter: bool = False
    seed: Optional[int] = None
    diff_rank_picks: bool = False
    initial_teacher: str = 'loaded'
    check_teachers: int = 0
    check_finite: int = 100
    non_finite: str = 'stop'
    curves: bool = True
    kind: Optional[str] = None
    teacher: Optional[str] = None
    student: Union[str, Sequence[str], None] = None
    update_method: Optional[str] = None
    evaluate_on: Optional[str] = None

    def __post_init__(self) -> None:
        """Validate every option, and replace those that may be schedules by schedules."""
        put = object.__setattr__
        put(self, 'keep_prob', keep_prob_schedule('keep_prob', self.keep_prob))
        if self.momentum is not None:
            put(self, 'momentum', momentum_schedule('momentum', self.momentum))
        for name in ('match_horizon', 'fp32_teacher', 'every_iter', 'diff_rank_picks', 'curves'):
            check_flag(name, getattr(self, name))
        for name, low in _COUNTS.items():
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), low)
        for name, choices in _CHOICES.items():
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), choices)
        for name in ('kind', 'teacher', 'update_method'):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                raise OptionError(f'{name} must be a name, got {value!r}')
        self._check_student()
        self._check_combinations()
        put(self, 'overrides', {} if self.overrides is None else self.overrides)
        self.rules  # noqa: B018 -- validates the overrides

    @cached_property
    def default(self) -> Rule:
        """The rule of tensors without an override."""
        return Rule(self.keep_prob, self.momentum, self.match_horizon, self.granularity)

    @cached_property
    def rules(self) -> Mapping[str, Union[Rule, str]]:
        """Part of a tensor's name -> its rule, ``'copy'`` or ``'skip'``: the overrides."""
        if not isinstance(self.overrides, Mapping):
            raise OptionError(
                f"overrides must be a dict of name part -> dict, 'copy' or 'skip', got "
                f'{self.overrides!r}'
            )
        return {part: self._override(part, value) for part, value in self.overrides.items()}

    @property
    def default_buffers(self) -> str:
        """The policy of buffers where neither an option nor an averaged model says one."""
        stock = self.keep_prob.plain() == 0
        return COPY if stock or self.default.copies else AVERAGE_NORMS

    def part_of(self, name: str) -> Optional[str]:
        """The key of the override that applies to the tensor with this name, or None."""
        # Ties go to the alphabetically first, as in OpenMMLab's custom_keys.
        parts = sorted(sorted(self.rules), key=len, reverse=True)
        return next((part for part in parts if part in name), None)

    def rule_of(self, name: str) -> Union[Rule, str]:
        """The rule of the tensor with this name, ``'copy'`` or ``'skip'``."""
        part = self.part_of(name)
        return self.default if part is None else self.rules[part]

    def check_matches(self, names: Iterable[str]) -> None:
        """Raise OptionError for an override that matches none of ``names``; it suggests one."""
        names = list(names)
        for part in self.rules:
            if not any(part in name for name in names):
                near = {word for name in names for word in name.split('.')}
                for name in names:  # And the modules on the way to each tensor.
                    near.update(accumulate(name.split('.'), '{}.{}'.format))
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
        checks: dict[str, Callable[[str, Any], Any]] = {
            'keep_prob': keep_prob_schedule,
            'momentum': momentum_schedule,
            'granularity': lambda name, given: check_choice(name, given, GRANULARITIES),
        }
        changes = {name: checks[name](f'{key}.{name}', given) for name, given in value.items()}
        return replace(self.default, **changes)

    def _check_student(self) -> None:
        if self.student is None:
            return
        names = [self.student] if isinstance(self.student, str) else self.student
        right = isinstance(names, Sequence) and all(isinstance(n, str) and n for n in names)
        if not (right and names):
            raise OptionError(
                f'student must be the dotted name of a module or a list of such names, got '
                f'{self.student!r}'
            )

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
                'diff_rank_picks=True: set one of them otherwise'
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
