# SPDX-License-Identifier: Apache-2.0
"""What moves a teacher in a run: one update at each opportunity, with the checks around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn

from se_mm.history.segments import History, settings_of
from se_mm.smoothing.ensemble import SpatialEnsemble, never_compiled
from se_mm.smoothing.guards import Guard, Watch
from se_mm.smoothing.guards.watch import equal
from se_mm.smoothing.schedules import Schedule
from se_mm.smoothing.settings import Average, Settings
from se_mm.smoothing.smoother import Smoother, TeacherFault
from se_mm.smoothing.tensors import named_tensors, unwrapped
from se_mm.teachers.average import StockAverage
from se_mm.teachers.base import Teacher

WATCHED = 10
"""Opportunities from the start of a training at which a teacher is watched for other movers."""
IDLE = 100
"""Opportunities from there within which a model must have asked for an update."""


class Mover:
    """The one thing that moves a teacher.

    It is called by the model in place of its own update, or by the hook. The teacher has been found
    but not installed; a momentum of None in the settings is the average that it has.
    """

    def __init__(self, teacher: Teacher, settings: Settings) -> None:
        averaged = teacher.averaged
        # The average that the teacher has, if it is in force.
        self.inherited: Optional[StockAverage] = None
        if settings.momentum is None and averaged is not None:
            self.inherited = StockAverage(averaged)
        smoother = Smoother(
            teacher.module, settings, teacher.student_name, self.inherited, teacher.buffers
        )
        self.ensemble = SpatialEnsemble.around(smoother, owner=averaged)
        self.teacher = teacher
        self.following = False  # Whether an opportunity copies the student and is not counted.
        self.held = False  # Whether it is none, as between two steps of the optimizer.
        self.started = False  # Whether the teacher is more than a copy of its student.
        self.guard: Optional[Guard] = None
        self.history = History()
        self.seed: Optional[int] = None  # Of the whole job, before it is made the rank's.
        # Batch-norm statistics that the teacher has in training, while it has recalibrated ones;
        # and names of those that a checkpoint has recalibrated, until the training starts.
        self.followed: dict[str, Tensor] = {}
        self.recalibrated: Sequence[str] = ()
        self._watch: Optional[Watch] = None
        self._described: Optional[Schedule] = None
        self._calls = self._opportunities = 0

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a model has a mover without the checks of the run that it was copied from."""
        return {**vars(self), 'guard': None, '_watch': None}

    @property
    def interval(self) -> int:
        """Opportunities from one update to the next."""
        averaged = self.teacher.averaged
        stock = averaged.interval if averaged is not None else 1
        return int(self.ensemble.settings.interval or stock)

    # In a compiled train_step it would be compiled once more whenever a number in it changes.
    @never_compiled
    def __call__(self, model: Optional[nn.Module] = None, *_: object, **__: object) -> None:
        """Make one update, if one is due.

        ``model`` is what is passed to ``update_parameters`` of an averaged model: the student.
        Other teachers know theirs. Raises TeacherFault if a check fails.
        """
        self._calls += 1
        if self.held:
            return
        student = self.teacher.student if self.teacher.averaged is None or model is None else model
        assert student is not None
        ensemble = self.ensemble
        step = ensemble.step
        if not ensemble.smoother.pairs:  # Only the model's call tells the student.
            ensemble.smoother.bind(student)
            self.record_settings(step)
        if self._watch is not None and self.started:
            self._watch.check(ensemble.smoother.named(), step)
        allowed = self.guard is None or self.guard.allows(step, student)
        if self.following:
            if allowed:
                ensemble.copy(student)
                self.history.copy(step)
        elif allowed:
            if self.inherited is not None and self.inherited_momentum() != self._described:
                self.record_settings(step)  # Its momentum was set from outside.
            ensemble.update(student, interval=self.interval)
        elif step:  # Before the first update the teacher is a copy, and stays one.
            self.history.skip(step)
            ensemble.step = step + 1
        self.started |= ensemble.step > 0 and not self.following
        if self.guard is not None and ensemble.step != step:
            self.guard.compare(ensemble.step)
        self._leave()

    @torch.no_grad()
    def copy_student(self) -> None:
        """Make the teacher equal to its student, as long as it is nothing more."""
        student = self.teacher.student
        if not self.started and student is not None:
            self.ensemble.copy(student)
            self._leave()

    def tensors(self) -> dict[str, Tensor]:
        """The teacher's tensors by the student's names."""
        own = named_tensors(unwrapped(self.teacher.module))
        return {member.name: own[member.inner] for member in self.ensemble.smoother.pairs}

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the teacher the statistics again that it has in training."""
        if self.followed:
            own = self.tensors()
            for name, value in self.followed.items():
                own[name].copy_(value)
            self.followed = {}

    def start(self, seed: int, updates: int, fresh: bool, following: bool) -> None:
        """Begin or continue a training of so many updates. Called once the weights are there.

        ``seed`` is this rank's, ``fresh`` whether the training is not resumed, and ``following``
        the attribute at first.
        """
        ensemble = self.ensemble
        ensemble.seed, ensemble.total = seed, updates
        if self.started:
            ensemble.step = max(1, ensemble.step)  # The next update is no copy.
        elif fresh:
            ensemble.step = 0
        self.started = ensemble.step > 0
        self.copy_student()
        if self.recalibrated:
            # In training they are the student's, on each rank its own.
            pairs = ensemble.smoother.named(parameters_only=False)
            names = [name for name in self.recalibrated if name in pairs]
            self.followed = {name: pairs[name].student.clone() for name in names}
            self.recalibrated = ()
        self.record_settings(ensemble.step)
        if self.teacher.taught_from_start and fresh and not self.started:
            self.following = following
            self()
        self._watch = Watch()
        self._calls = self._opportunities = 0
        self._leave()

    @property
    def watching(self) -> bool:
        """Whether another mover, or none, would be noticed."""
        return self._watch is not None

    def count_opportunity(self, last: bool) -> None:
        """Count an iteration, maybe the last, after which an update was due, while watching.

        Raises TeacherFault if the model should move its teacher, and has asked for no update.
        """
        self._opportunities += 1
        if self.teacher.updated_by_model and not self._calls:
            if self._opportunities >= IDLE or last:
                self._check_idle()
        elif self._opportunities >= WATCHED and not self.ensemble.settings.check_teachers:
            self._watch = None

    def _check_idle(self) -> None:
        """Raise an error for a teacher whose model asks for no update."""
        assert self._watch is not None
        pairs = self.ensemble.smoother.named()
        if not pairs or equal(pairs.values()):
            self._watch = None  # Something keeps it equal: the updates begin later.
            return
        many = self._opportunities
        moved = self._watch.moved(pairs)
        if moved:
            raise TeacherFault(
                f'the teacher must be moved by one thing, but something other than this hook '
                f'changed the teacher of {moved[0]} in the first {many} iterations: remove this '
                f'hook or the other, or name the method of the model that moves it by '
                f'update_method='
            )
        path = self.teacher.path
        inner = f'{path}.module' if self.teacher.averaged is not None else path
        raise TeacherFault(
            f'the model must ask for the updates of its teacher {path!r}, but did not in the first '
            f'{many} iterations, and nothing else moves it: set begin_iter if they begin later, '
            f"kind='pair', teacher={inner!r} and student= to let the hook move it, or remove the "
            f'hook'
        )

    def describe(self) -> list[str]:
        """What is done, and what may surprise, one line each: for the log and the check."""
        smoother = self.ensemble.smoother
        rule = str(self.ensemble.settings.default)
        momentum = self.inherited_momentum()
        if momentum is not None:
            rule = rule.replace("the model's own average", f"the average's momentum {momentum}")
        lines = [f'{self.teacher}; {rule}; buffers {smoother.buffers}']
        if smoother.shared:
            lines.append(
                f'teacher and student share {len(smoother.shared)} tensors, for example '
                f'{smoother.shared[0]!r}, which are left as they are'
            )
        return lines + list(self.teacher.cautions)

    def inherited_momentum(self) -> Optional[Schedule]:
        """The schedule of the average that the teacher has, where it is known."""
        return self.inherited.describe() if self.inherited is not None else None

    def record_settings(self, step: int) -> None:
        """Begin a part of the history at this update step, if anything in force has changed."""
        ensemble = self.ensemble
        self._described = self.inherited_momentum()
        if ensemble.smoother.pairs:
            settings = settings_of(
                ensemble.smoother, self._described, ensemble.seed, ensemble.total, self.interval
            )
            self.history.go_on(step, settings)

    def weight(self, step: int) -> Average:
        """How a picked unit followed at an update."""
        rule = self.ensemble.settings.default
        return rule.average(step, self.ensemble.total, self.inherited)

    def _leave(self) -> None:
        """Remember the teacher as it is, if it will be compared at the next opportunity."""
        if self._watch is None:
            return
        step, every = self.ensemble.step, self.ensemble.settings.check_teachers
        compared = self._opportunities < WATCHED or (every and step % every == 0)
        self._watch.leave(self.ensemble.smoother.named().values() if compared else ())
