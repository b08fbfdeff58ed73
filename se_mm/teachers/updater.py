# SPDX-License-Identifier: Apache-2.0
"""Update a teacher in a run: one update at each opportunity, with checks around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Optional

import torch
from mmengine.dist import get_rank
from torch import Tensor, nn

from se_mm.history.segments import History, settings_of
from se_mm.smoothing.ensemble import SpatialEnsemble, never_compiled
from se_mm.smoothing.guards import Guard, Watch
from se_mm.smoothing.guards.watch import equal
from se_mm.smoothing.picks import rank_seed
from se_mm.smoothing.schedules import Schedule
from se_mm.smoothing.settings import Average, Rule, Settings
from se_mm.smoothing.smoother import Smoother, TeacherFault
from se_mm.smoothing.tensors import named_tensors, unwrapped
from se_mm.teachers.base import Teacher
from se_mm.teachers.stock_average import StockAverage

WATCHED = 10
"""Opportunities after the start of a training in which other updates of the teacher are noticed."""
IDLE = 100
"""Opportunities after the start within which a model must have triggered an update."""


class Updater:
    """Updates a teacher: called by the model in place of its own update, or by the hook.

    Args:
        teacher: The teacher, not installed yet.
        settings: The options. If the momentum is None, the teacher's own average applies.

    Attributes:
        following: Whether an opportunity copies the student and does not count as an update.
        held: Whether a call is no opportunity, as between two steps of the optimizer.
        started: Whether the teacher is more than a copy of its student.
        seed: The seed of the picks for all ranks. With ``diff_rank_picks``, a rank's differs.
        training_statistics: Those of the batch norms, while the teacher has recalibrated ones.
        recalibrated: Names of the recalibrated statistics in a checkpoint, until training starts.
    """

    def __init__(self, teacher: Teacher, settings: Settings) -> None:
        averaged = teacher.averaged
        self.inherited: Optional[StockAverage] = None
        if settings.momentum is None and averaged is not None:
            self.inherited = StockAverage(averaged)
        self.smoother = Smoother(
            teacher.module,
            settings,
            teacher.student_name,
            self.inherited,
            teacher.buffers,
            teacher.model,
        )
        self.ensemble = SpatialEnsemble.around(self.smoother, owner=averaged)
        self.teacher = teacher
        self.following = self.held = self.started = False
        self.guard: Optional[Guard] = None
        self.history = History()
        self.seed: Optional[int] = None
        self.training_statistics: dict[str, Tensor] = {}
        self.recalibrated: Sequence[str] = ()
        self._watch: Optional[Watch] = None
        self._described: Optional[Schedule] = None
        self._calls = self._opportunities = 0

    def __getstate__(self) -> dict[str, Any]:
        """A copy is without the checks of the run."""
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

        ``model`` is the student that a model passes to ``update_parameters`` of its averaged model.
        Raises TeacherFault if a check fails.
        """
        self._calls += 1
        if self.held:
            return
        student = self.teacher.student if self.teacher.averaged is None or model is None else model
        assert student is not None
        ensemble = self.ensemble
        step = ensemble.step
        if not self.smoother.pairs:  # The student was not known before.
            self.smoother.bind(student)
            self.record_settings(step)
        if self._watch is not None and self.started:
            self._watch.check(self.smoother.named(), step)
        allowed = self.guard is None or self.guard.allows(step, student)
        if self.following:
            if allowed:
                ensemble.copy(student)
                self.history.copy(step)
        elif allowed:
            if self.inherited_momentum != self._described:  # It was set from outside.
                self.record_settings(step)
            ensemble.update(student, interval=self.interval)
        elif step:  # Before the first update, the teacher remains a copy.
            self.history.skip(step)
            ensemble.step = step + 1
        self.started |= ensemble.step > 0 and not self.following
        if self.guard is not None and ensemble.step != step:
            self.guard.compare(ensemble.step)
        self._leave()

    @torch.no_grad()
    def copy_student(self) -> None:
        """Make the teacher equal to its student, unless smoothing has started."""
        student = self.teacher.student
        if not self.started and student is not None:
            self.ensemble.copy(student)
            self._leave()

    def tensors(self) -> dict[str, Tensor]:
        """The teacher's tensors by their names in the student's model."""
        own = named_tensors(unwrapped(self.teacher.module))
        return {member.name: own[member.inner] for member in self.smoother.pairs}

    @torch.no_grad()
    def restore_statistics(self) -> None:
        """Restore the statistics of the training after a recalibration."""
        if self.training_statistics:
            own = self.tensors()
            for name, value in self.training_statistics.items():
                own[name].copy_(value)
            self.training_statistics = {}

    def start(self, seed: Optional[int], updates: int, fresh: bool, following: bool) -> None:
        """Begin or continue a training. Called after the weights were initialised or loaded.

        Args:
            seed: The run's seed, which applies if there is none in the options or the checkpoint.
            updates: Updates of the whole run.
            fresh: Whether the training is not resumed.
            following: The attribute's first value.

        Raises:
            OptionError: If ``match_horizon`` does not fit the teacher's own average.
        """
        ensemble, settings = self.ensemble, self.ensemble.settings
        self.seed = next(one for one in (settings.seed, self.seed, seed, 0) if one is not None)
        ensemble.seed = rank_seed(self.seed, get_rank() if settings.diff_rank_picks else 0)
        ensemble.total = updates
        self.weight(max(1, ensemble.step))  # Checks match_horizon.
        if self.started:
            ensemble.step = max(1, ensemble.step)  # The next update does not copy.
        elif fresh:
            ensemble.step = 0
        self.started = ensemble.step > 0
        self.copy_student()
        if self.recalibrated:
            # In training they are the student's, and may differ between ranks.
            pairs = self.smoother.named(parameters_only=False)
            names = [name for name in self.recalibrated if name in pairs]
            self.training_statistics = {name: pairs[name].student.clone() for name in names}
            self.recalibrated = ()
        self.record_settings(ensemble.step)
        if self.teacher.averaged is None and fresh and not self.started:
            self.following = following
            self()
        self._watch = Watch()
        self._calls = self._opportunities = 0
        self._leave()

    def count_opportunity(self, last: bool) -> None:
        """Count an iteration in which an update was due. Called after each iteration.

        Raises TeacherFault if the model should update its teacher but has not triggered any update;
        ``last`` is whether the run ends.
        """
        if self._watch is None or self.held or self.following:
            return
        self._opportunities += 1
        if self.teacher.updated_by_model and not self._calls:
            if self._opportunities >= IDLE or last:
                self._check_idle(self._watch)
        elif self._opportunities >= WATCHED and not self.ensemble.settings.check_teachers:
            self._watch = None

    def _check_idle(self, watch: Watch) -> None:
        """Raise TeacherFault, since the model has not triggered any update."""
        pairs = self.smoother.named()
        if not pairs or equal(pairs.values()):
            self._watch = None  # Something else keeps it equal until the updates begin.
            return
        count = self._opportunities
        changed = watch.changed(pairs)
        if changed:
            raise TeacherFault(
                f'only one hook may update the teacher, but in the first {count} iterations '
                f'something else changed the teacher of {changed[0]}: remove this hook or the '
                f"other update, or set update_method to the name of the model's method"
            )
        path = self.teacher.path
        inner = f'{path}.module' if self.teacher.averaged is not None else path
        raise TeacherFault(
            f'the model must trigger the updates of its teacher {path!r}, but did not in the first '
            f'{count} iterations, and nothing else updates it: set begin_iter if they begin later, '
            f"set kind='pair', teacher={inner!r} and student= to let the hook update it, or remove "
            f'the hook'
        )

    def describe(self) -> list[str]:
        """One line on what is done, and one for each caution: for the log and the check."""
        rule = self.with_momentum(self.ensemble.settings.default)
        lines = [f'{self.teacher}; {rule}; buffers {self.smoother.buffers}']
        shared = self.smoother.shared
        if shared:
            lines.append(
                f'teacher and student share {len(shared)} tensors, for example {shared[0]!r}, '
                f'which are not updated'
            )
        return lines + list(self.teacher.cautions)

    @property
    def inherited_momentum(self) -> Optional[Schedule]:
        """The momentum of the teacher's own average, if that applies and is known."""
        return self.inherited.describe() if self.inherited is not None else None

    def with_momentum(self, rule: Rule) -> Rule:
        """A rule with the momentum of the teacher's own average, if that applies and is known."""
        return replace(rule, momentum=rule.momentum or self.inherited_momentum)

    def record_settings(self, step: int) -> None:
        """Begin a segment of the history at this update step, if a setting has changed."""
        ensemble = self.ensemble
        self._described = self.inherited_momentum
        if self.smoother.pairs:
            settings = settings_of(
                self.smoother, self._described, ensemble.seed, ensemble.total, self.interval
            )
            self.history.go_on(step, settings)

    def weight(self, step: int) -> Average:
        """How a picked unit was updated at an update step."""
        rule = self.ensemble.settings.default
        return rule.average(step, self.ensemble.total, self.inherited)

    def _leave(self) -> None:
        """Remember the teacher's state, if the next opportunity compares it."""
        if self._watch is None:
            return
        step, every = self.ensemble.step, self.ensemble.settings.check_teachers
        compared = self._opportunities < WATCHED or (every and step % every == 0)
        self._watch.leave(self.smoother.named().values() if compared else ())
