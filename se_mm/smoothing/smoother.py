# SPDX-License-Identifier: Apache-2.0
"""A teacher and its student, paired by name, and the update of the one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, repeat
from operator import is_
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from se_mm.smoothing.kernels import choose
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.settings import (
    AVERAGE_BUFFERS,
    AVERAGE_NORMS,
    COPY,
    SKIP,
    Average,
    Rule,
    Settings,
)
from se_mm.smoothing.tensors import Tracked, named_tensors, slots, unique, unwrapped
from se_mm.smoothing.units import (
    TensorPair,
    Units,
    is_dense,
    is_sharded,
    local,
    local_pair,
    sharded_alike,
)
from se_mm.smoothing.update import draw_picks, update


class TeacherFault(RuntimeError):
    """A teacher is damaged, would be by the next update, or is moved by something else.

    The message is a single line that names the tensor and the update.
    """


@dataclass(frozen=True)
class Member:
    """A tensor of the teacher that its student has too."""

    name: str  # In the student's model.
    inner: str  # In the teacher, and in the module that is passed as the student.
    is_parameter: bool  # Otherwise it is a buffer.
    rule: Union[Rule, str]  # How it is smoothed, 'copy' or 'skip'.


class Smoother:
    """Moves a teacher after its student, tensor by tensor of the same name.

    Names are what counts: a tensor that either module replaces is followed from the next update on.

    Args:
        teacher: The module that follows.
        settings: How.
        rename: Maps a teacher's tensor name to that of the student's in its model, by which units
            are picked, overrides are matched and messages speak.
        inherited: The average where the momentum is None, by update step.
        buffers: Policy of buffers where ``settings.buffers`` is None; None: the settings' default.

    Attributes:
        pairs: Member -> teacher's and student's tensor, once bound; those of a rule in a row.
        fp32: Name -> the average in float32, for teachers of a lower precision.
        shared: Names of the tensors that teacher and student share, which nothing moves.
    """

    def __init__(
        self,
        teacher: nn.Module,
        settings: Settings,
        rename: Callable[[str], str] = str,
        inherited: Optional[Callable[[int], Average]] = None,
        buffers: Optional[str] = None,
    ) -> None:
        self.teacher = teacher
        self.settings = settings
        self.buffers = settings.buffers or buffers or settings.default_buffers
        self.pairs: dict[Member, TensorPair] = {}
        self.fp32: dict[str, Tensor] = {}
        self.shared: list[str] = []
        self._rename = rename
        self._inherited = inherited
        self._groups: list[_Group] = []
        self._trackers: Optional[tuple[Tracked, Tracked]] = None
        # The tensors that the groups are built for, and where they are in memory.
        self._built: Optional[tuple[list[Optional[Tensor]], list[int]]] = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the settings and the averages; its next update binds it to a student."""
        return {**vars(self), 'pairs': {}, '_groups': [], '_trackers': None, '_built': None}

    def bind(self, student: nn.Module) -> None:
        """TensorPair the teacher's tensors with a student's. The first update does so by itself.

        The student has a tensor of each of the teacher's names and shapes, and maybe more, as a
        predictor.

        Raises:
            OptionError: If it has not, or has it sharded otherwise; if an override matches nothing;
                or if nothing would ever be moved.
        """
        theirs = named_tensors(unwrapped(student))
        found: dict[Member, TensorPair] = {}
        self.shared = []
        for inner, slot in unique(slots(unwrapped(self.teacher))):
            name = self._rename(inner)
            member = Member(name, inner, slot.is_parameter, self._rule(name, slot))
            pair = _paired(name, slot.tensors[slot.key], theirs.get(inner), OptionError)
            granularity = member.rule.granularity if isinstance(member.rule, Rule) else 'tensor'
            if granularity in ('channel', 'element') and is_sharded(pair.teacher):
                # A rank does not know the indices of its numbers.
                raise OptionError(
                    f"granularity must be 'tensor' or 'layer' for the sharded parameter {name!r}, "
                    f'got {granularity!r}'
                )
            if _same_memory(pair):
                self.shared.append(name)
            else:
                found[member] = pair
        self.settings.check_matches([member.name for member in found])
        self._check_moves(found)
        order = sorted(found, key=lambda member: str(member.rule))
        self.pairs = {member: found[member] for member in order}
        names = [member.inner for member in order]
        self._trackers = Tracked(names), Tracked(names)
        self._built = None

    @torch.no_grad()
    def copy(self, student: nn.Module) -> None:
        """Make the teacher equal to the student, all parameters and all buffers."""
        self.refresh(student)
        update([local_pair(pair) for pair in self.pairs.values()], repeat(True))
        for pair in self.pairs.values():
            if pair.name in self.fp32:
                self.fp32[pair.name].copy_(pair.teacher)

    def follow(self, student: nn.Module) -> None:
        """Copy what follows the student at every update, and smooth nothing."""
        self.refresh(student)
        for group in self._groups:
            if group.rule == COPY:
                group.update(0, 0, 0.0, None)

    def update(self, student: nn.Module, step: int, total: int, seed: int) -> None:
        """Make one update.

        Args:
            student: The module that is followed.
            step: The update step: updates made before this one, at least 0.
            total: Updates of the whole run, for the schedules.
            seed: Seed of the picks.

        Raises:
            TeacherFault: If a tensor has another shape than when the two were paired, or is gone.
        """
        self.refresh(student)
        for group in self._groups:
            keep_prob, average = 0.0, None
            if isinstance(group.rule, Rule):
                keep_prob = group.rule.keep_prob(step, total)
                average = group.rule.average(step, total, self._inherited)
            group.update(seed, step, keep_prob, average)

    def restore(self, fp32: Mapping[str, Tensor]) -> None:
        """Continue from a teacher whose values were loaded, and from :attr:`fp32` as it was.

        For names that this lacks, the teacher's values are taken.
        """
        self.fp32 = {name: average.clone() for name, average in fp32.items()}
        self._built = None

    def named(self, parameters_only: bool = True) -> dict[str, TensorPair]:
        """The pairs by the student's names."""
        return {
            member.name: pair
            for member, pair in self.pairs.items()
            if member.is_parameter or not parameters_only
        }

    def refresh(self, student: nn.Module) -> None:
        """Find the tensors that have the names now, and rebuild the groups if any has changed."""
        if self._trackers is None:
            self.bind(student)
        assert self._trackers is not None
        teachers = self._trackers[0].now(unwrapped(self.teacher))
        students = self._trackers[1].now(unwrapped(student))
        tensors = teachers + students
        if self._built is not None:
            before, memory = self._built
            if all(map(is_, tensors, before)) and _memory(tensors) == memory:
                return
        for member, teacher, new in zip(list(self.pairs), teachers, students):
            self.pairs[member] = _paired(member.name, teacher, new, TeacherFault)
        self._build()
        self._built = tensors, _memory(tensors)

    @torch.no_grad()
    def _build(self) -> None:
        """Group the tensors as they are by rule, and choose the groups' kernels."""
        before, self.fp32, self._groups = self.fp32, {}, []
        for rule, members in groupby(self.pairs, key=lambda member: member.rule):
            if rule == SKIP:
                continue
            pairs = [self.pairs[member] for member in members]
            averages = isinstance(rule, Rule) and not rule.copies and self.settings.fp32_teacher
            for pair in pairs if averages else ():
                if pair.teacher.dtype in (torch.bfloat16, torch.float16):
                    average = before.get(pair.name, pair.teacher)
                    self.fp32[pair.name] = average.to(pair.teacher.device, torch.float32)
            self._groups.append(_Group(rule, pairs, self.fp32))

    def _rule(self, name: str, slot: Any) -> Union[Rule, str]:
        """How a tensor of the teacher is smoothed."""
        rule = self.settings.rule_of(name)
        tensor = slot.tensors[slot.key]
        if not slot.is_parameter and isinstance(rule, Rule):
            every = self.buffers == AVERAGE_BUFFERS
            if not (every or (self.buffers == AVERAGE_NORMS and slot.is_statistic)):
                # Statistics that are computed anew follow in between.
                rule = SKIP if self.buffers == SKIP else COPY
        # Integers cannot be averaged, sparse and quantised tensors have no memory that a kernel
        # could read, and buffers that are not saved are the model's own to fill.
        averages = (tensor.is_floating_point() or tensor.is_complex()) and is_dense(tensor)
        if isinstance(rule, Rule) and not (averages and slot.persistent):
            rule = COPY
        return rule

    def _check_moves(self, members: Mapping[Member, TensorPair]) -> None:
        """Raise OptionError if nothing would ever be moved."""
        parameters = [member for member in members if member.is_parameter]
        if not parameters and not self.shared:
            raise OptionError(
                f'the student must have parameters for a teacher to follow, and '
                f'{type(self.teacher).__name__} has none'
            )
        if parameters and all(member.rule == SKIP for member in parameters):
            raise OptionError(
                f'overrides must leave a parameter of the teacher to be moved, got '
                f'{dict(self.settings.overrides)!r}, which skips all {len(parameters)}'
            )


class _Group:
    """The tensors of one rule, and the kernels that update them.

    Where ``fp32`` has an average for a name, that is updated, and the teacher is it rounded.
    """

    def __init__(
        self, rule: Union[Rule, str], pairs: list[TensorPair], fp32: Mapping[str, Tensor]
    ) -> None:
        self.rule = rule
        granularity = rule.granularity if isinstance(rule, Rule) else 'tensor'
        pairs = [_real(pair) for pair in map(local_pair, pairs) if pair.teacher.numel()]
        averages = {pair.name: local(fp32[pair.name]) for pair in pairs if pair.name in fp32}
        moved = [replace(pair, teacher=averages.get(pair.name, pair.teacher)) for pair in pairs]
        rounded = [replace(p, student=averages[p.name]) for p in pairs if p.name in averages]
        self._units = Units(moved, granularity)
        self._kernels = choose(moved, granularity)
        self._rounding = choose(rounded, granularity)

    def update(self, seed: int, step: int, keep_prob: float, average: Average) -> None:
        """Make one update."""
        if average == 0:
            return
        if callable(average):
            update(self._units.pairs, draw_picks(self._units, seed, step, keep_prob), average)
        else:
            for kernel in self._kernels:
                kernel.update(seed, step, keep_prob, average)
        for kernel in self._rounding:
            kernel.update(seed, step, keep_prob, None)


def _paired(
    name: str, teacher: Optional[Tensor], student: Optional[Tensor], error: type[Exception]
) -> TensorPair:
    """A pair of two tensors of equal shape and sharding; else ``error`` is raised."""
    if teacher is None:
        raise error(f'the teacher must keep its tensor {name!r}, which is gone')
    if student is None:
        raise error(
            f'the student must have a tensor {name!r}, since its teacher has one of shape '
            f'{tuple(teacher.shape)}: keep its name, or restart with a teacher of the new model'
        )
    if student.shape != teacher.shape:
        raise error(
            f'teacher and student must have the same shapes: {name!r} is {tuple(teacher.shape)} in '
            f'the teacher and {tuple(student.shape)} in the student'
        )
    if not sharded_alike(teacher, student):
        raise error(
            f'teacher and student must be sharded alike: {name!r} is not; apply fully_shard to '
            f'both in the same way, or to neither'
        )
    return TensorPair(name, teacher, student)


def _memory(tensors: list[Optional[Tensor]]) -> list[int]:
    """Addresses and numbers of elements of tensors, which change where ``.data`` is replaced."""
    try:
        addresses = [*map(Tensor.data_ptr, tensors)]  # type: ignore[arg-type]
    except (RuntimeError, TypeError):  # A sparse tensor has no address, and None is no tensor.
        addresses = [0]
    if 0 in addresses:  # A sharded tensor has none either: that of its shard counts.
        tensors = [local(t) for t in tensors if t is not None and is_dense(t)]
        addresses = [*map(Tensor.data_ptr, tensors)]  # type: ignore[arg-type]
    return [*addresses, *map(Tensor.numel, tensors)]  # type: ignore[arg-type]


def _real(pair: TensorPair) -> TensorPair:
    """A pair of complex tensors as pairs of real numbers."""
    if not pair.teacher.is_complex():
        return pair
    return replace(
        pair, teacher=torch.view_as_real(pair.teacher), student=torch.view_as_real(pair.student)
    )


def _same_memory(pair: TensorPair) -> bool:
    """Whether teacher and student are one tensor, or two names of the same memory."""
    teacher, student = pair.teacher, pair.student
    if teacher is student or teacher.is_meta or not is_dense(teacher) or is_sharded(teacher):
        return teacher is student
    same = teacher.device == student.device and teacher.data_ptr() == student.data_ptr()
    return bool(teacher.numel()) and same
