# SPDX-License-Identifier: Apache-2.0
"""A teacher and its student, paired by name, and the update of the one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
from se_mm.smoothing.tensors import Tracked, named_tensors, reshard, slots, unique, unwrapped
from se_mm.smoothing.units import (
    TensorPair,
    Units,
    as_real,
    is_dense,
    is_sharded,
    local,
    local_pair,
    memory,
    paired,
    same_memory,
)
from se_mm.smoothing.update import draw_picks, update


class TeacherFault(RuntimeError):
    """A teacher is damaged, would be by the next update, or is updated by something else.

    The message is a single line that names the tensor.
    """


@dataclass(frozen=True)
class Member:
    """A tensor of the teacher that its student has too."""

    name: str  # In the student's model.
    inner: str  # In the teacher, and in the module that is passed as the student.
    is_parameter: bool  # Otherwise it is a buffer.
    rule: Union[Rule, str]  # How it is smoothed, 'copy' or 'skip'.


class Smoother:
    """Updates a teacher from its student, tensor by tensor of the same name.

    If either module replaces a tensor, the new one is used from the next update on.

    Args:
        teacher: The module to update.
        settings: How it is updated.
        rename: Maps the name of a tensor in the teacher to its name in the student's model, which
            picks, overrides and messages use.
        inherited: Returns the average by update step, where the momentum is None.
        buffers: Policy of buffers where ``settings.buffers`` is None; None: the settings' default.
        model: The module with both teacher and student in it, if there is one.

    Attributes:
        pairs: Member -> teacher's and student's tensor, once bound, ordered by rule.
        fp32: Name -> the average in float32, for low-precision teachers.
        shared: Names of the tensors that teacher and student share, which are not updated.
    """

    def __init__(
        self,
        teacher: nn.Module,
        settings: Settings,
        rename: Callable[[str], str] = str,
        inherited: Optional[Callable[[int], Average]] = None,
        buffers: Optional[str] = None,
        model: Optional[nn.Module] = None,
    ) -> None:
        self.teacher = teacher
        self.settings = settings
        self.buffers = settings.buffers or buffers or settings.default_buffers
        self.pairs: dict[Member, TensorPair] = {}
        self.fp32: dict[str, Tensor] = {}
        self.shared: list[str] = []
        self._rename = rename
        self._model = model
        self._inherited = inherited
        self._groups: list[_Group] = []
        self._trackers: Optional[tuple[Tracked, Tracked]] = None
        # The tensors that the groups are built for, and where they are in memory.
        self._built: Optional[tuple[list[Optional[Tensor]], list[int]]] = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the settings and the averages; its next update binds it to a student."""
        return {**vars(self), 'pairs': {}, '_groups': [], '_trackers': None, '_built': None}

    def bind(self, student: nn.Module) -> None:
        """Pair the teacher's tensors with a student's. Otherwise the first update does it.

        The student must have all of the teacher's tensors, with the same names and shapes. It may
        have more, for example a predictor.

        Raises:
            OptionError: If a tensor is missing, or has another shape or sharding; if an override
                matches nothing; or if nothing would ever be updated.
        """
        self._reshard(student)
        theirs = named_tensors(unwrapped(student))
        found: dict[Member, TensorPair] = {}
        self.shared = []
        for inner, slot in unique(slots(unwrapped(self.teacher))):
            name = self._rename(inner)
            member = Member(name, inner, slot.is_parameter, self._rule(name, slot))
            pair = paired(name, slot.tensors[slot.key], theirs.get(inner), OptionError)
            granularity = member.rule.granularity if isinstance(member.rule, Rule) else 'tensor'
            if granularity in ('channel', 'element') and is_sharded(pair.teacher):
                # A rank does not know the indices of its elements.
                raise OptionError(
                    f"granularity must be 'tensor' or 'layer' for the sharded parameter {name!r}, "
                    f'got {granularity!r}'
                )
            if same_memory(pair):
                self.shared.append(name)
            else:
                found[member] = pair
        self.settings.check_matches([member.name for member in found])
        self._check_updated(found)
        self.pairs = dict(sorted(found.items(), key=lambda item: str(item[0].rule)))
        names = [member.inner for member in self.pairs]
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
        """Update only what is copied at every update."""
        self.refresh(student)
        for group in self._groups:
            if group.rule == COPY:
                group.update(0, 0, 0.0, None)

    def update(self, student: nn.Module, step: int, total: int, seed: int) -> None:
        """Make one update.

        Args:
            student: The module to follow.
            step: The update step: updates made before this one, at least 0.
            total: Updates of the whole run, for the schedules.
            seed: Seed of the picks.

        Raises:
            TeacherFault: If a tensor is gone, or its shape has changed.
        """
        self.refresh(student)
        for group in self._groups:
            keep_prob, average = 0.0, None
            if isinstance(group.rule, Rule):
                keep_prob = group.rule.keep_prob(step, total)
                average = group.rule.average(step, total, self._inherited)
            group.update(seed, step, keep_prob, average)

    def restore(self, fp32: Mapping[str, Tensor]) -> None:
        """Continue from a teacher that was loaded, with a saved :attr:`fp32`.

        An average that is missing starts from the teacher's values.
        """
        self.fp32 = {name: average.clone() for name, average in fp32.items()}
        self._built = None

    def named(self, parameters_only: bool = True) -> dict[str, TensorPair]:
        """The pairs by name in the student's model."""
        return {
            member.name: pair
            for member, pair in self.pairs.items()
            if member.is_parameter or not parameters_only
        }

    def refresh(self, student: nn.Module) -> None:
        """Look up the tensors by name, and rebuild the groups if any was replaced."""
        if self._trackers is None:
            self.bind(student)
        teachers, students = self._look_up(student)
        if self._is_built_for(teachers + students):
            return
        # Only a tensor that FSDP2 shards can be gathered. Other models are not walked over, since
        # some assign a new buffer in every forward.
        may_be_gathered = self._built is None or any(map(is_sharded, self._built[0]))
        if may_be_gathered and self._reshard(student):
            teachers, students = self._look_up(student)
            if self._is_built_for(teachers + students):
                return
        for member, teacher, new in zip(list(self.pairs), teachers, students):
            self.pairs[member] = paired(member.name, teacher, new, TeacherFault)
        self._build()
        self._built = teachers + students, memory(teachers + students)

    def _look_up(self, student: nn.Module) -> tuple[list[Optional[Tensor]], list[Optional[Tensor]]]:
        """The tensors of teacher and student that now have the names of the pairs."""
        assert self._trackers is not None
        teachers, students = self._trackers
        return teachers.now(unwrapped(self.teacher)), students.now(unwrapped(student))

    def _is_built_for(self, tensors: list[Optional[Tensor]]) -> bool:
        """Whether the groups are those of these tensors, where these are in memory now."""
        if self._built is None:
            return False
        before, addresses = self._built
        return all(map(is_, tensors, before)) and memory(tensors) == addresses

    def _reshard(self, student: nn.Module) -> bool:
        return reshard(*((self.teacher, student) if self._model is None else (self._model,)))

    @torch.no_grad()
    def _build(self) -> None:
        """Group the tensors by rule, and choose the groups' kernels."""
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
        if isinstance(rule, str):
            return rule
        norms = self.buffers == AVERAGE_NORMS and slot.is_statistic
        if not (slot.is_parameter or norms or self.buffers == AVERAGE_BUFFERS):
            # Recalibrated statistics are copied in between.
            return SKIP if self.buffers == SKIP else COPY
        # Integers cannot be averaged, a kernel cannot read the memory of sparse and quantised
        # tensors, and the model itself fills buffers that are not saved.
        tensor = slot.tensors[slot.key]
        averages = (tensor.is_floating_point() or tensor.is_complex()) and is_dense(tensor)
        return rule if averages and slot.persistent else COPY

    def _check_updated(self, members: Iterable[Member]) -> None:
        """Raise OptionError if nothing would ever be updated."""
        parameters = [member for member in members if member.is_parameter]
        if not parameters and not self.shared:
            raise OptionError(
                f'the student must have parameters for a teacher to follow, and '
                f'{type(self.teacher).__name__} has none'
            )
        if parameters and all(member.rule == SKIP for member in parameters):
            raise OptionError(
                f'overrides must leave a parameter of the teacher to update, got '
                f'{dict(self.settings.overrides)!r}, which skips all {len(parameters)}'
            )


class _Group:
    """The tensors of one rule, and the kernels that update them.

    If ``fp32`` has an average for a name, it is updated, and the teacher gets its rounded values.
    """

    def __init__(
        self, rule: Union[Rule, str], pairs: list[TensorPair], fp32: Mapping[str, Tensor]
    ) -> None:
        self.rule = rule
        granularity = rule.granularity if isinstance(rule, Rule) else 'tensor'
        pairs = [as_real(pair) for pair in map(local_pair, pairs) if pair.teacher.numel()]
        averages = {pair.name: local(fp32[pair.name]) for pair in pairs if pair.name in fp32}
        exact = [replace(pair, teacher=averages.get(pair.name, pair.teacher)) for pair in pairs]
        rounded = [replace(p, student=averages[p.name]) for p in pairs if p.name in averages]
        self._units = Units(exact, granularity)
        self._kernels = choose(exact, granularity)
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
