# SPDX-License-Identifier: Apache-2.0
"""Keep a teacher from taking over what is not finite, and from differing between ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch import distributed as dist

from se_mm.smoothing.options import OptionError
from se_mm.smoothing.smoother import Smoother, TeacherFault
from se_mm.smoothing.tensors import STATISTICS
from se_mm.smoothing.units import TensorPair, is_sharded, local


class Guard:
    """Checks student and teacher around the updates.

    What is trained is checked, and the running statistics of batch norms. Other buffers are the
    model's own: a mask may be infinite on purpose.

    Args:
        smoother: What moves the teacher.
        check_teachers: As in :class:`~se_mm.smoothing.Settings`, like the next.
        check_finite: See there.
        skipped: Called for each update that is left out because the student is not finite, with the
            tensors' names, the update step and how many were left out. None: such a student is a
            fault.

    Raises:
        OptionError: If teachers are to be compared of which every rank has another shard.
    """

    def __init__(
        self,
        smoother: Smoother,
        check_teachers: int = 0,
        check_finite: int = 0,
        skipped: Optional[Callable[[Sequence[str], int, int], None]] = None,
    ) -> None:
        self._smoother = smoother
        self._check_teachers = check_teachers
        self._check_finite = check_finite
        self._skipped = skipped
        sharded = [n for n, pair in smoother.named().items() if is_sharded(pair.teacher)]
        if check_teachers and sharded:
            raise OptionError(
                f'check_teachers cannot compare sharded parameters ({sharded[0]!r}): set '
                f'check_teachers=0'
            )
        self._left_out = 0
        self._opportunities = 0

    def allows(self, step: int, student: nn.Module) -> bool:
        """Whether the update may be made, for a finite student. Called by all ranks before each.

        Raises TeacherFault for another student, unless its updates are to be left out.
        """
        if not self._check_finite:
            return True
        self._opportunities += 1
        if self._opportunities > 1 and self._opportunities % self._check_finite:
            return True
        self._smoother.refresh(student)  # Its tensors may be others than at the last update.
        names = self.damaged_student(on_all_ranks=True)
        if not names:
            return True
        if self._skipped is None:
            raise fault('student', names, step)
        self._left_out += 1
        self._skipped(names, step, self._left_out)
        return False

    def compare(self, step: int) -> None:
        """Raise TeacherFault, on all ranks alike, if the ranks' teachers differ.

        Called by all after each update. Compared are the parameters, and the averages of those of a
        lower precision; no buffers: those of a batch norm that is not synchronised may differ.
        """
        if not self._check_teachers or step % self._check_teachers or world_size() == 1:
            return
        pairs, averages = self._smoother.named(), self._smoother.fp32
        tensors = [(name, pair.teacher) for name, pair in pairs.items()]
        tensors += [(name, averages[name]) for name in pairs if name in averages]
        found = differing(tensors)
        if found:
            (name, rank), *others = found
            more = f', and so do {len(others)} others' if others else ''
            raise TeacherFault(
                f'all ranks must have the same teacher, but at update {step} tensor {name!r} of '
                f'rank {rank} differs from that of rank 0{more}: resume from a checkpoint written '
                f'before'
            )

    def check_saved(self, step: int) -> None:
        """Raise TeacherFault for a teacher that is not finite, or a student if that is a fault.

        Called by the one rank that saves.
        """
        if not self._check_finite:
            return
        names = not_finite((pair.name, pair.teacher) for pair in self._checked())
        if names:
            raise fault('teacher', names, step)
        names = [] if self._skipped else self.damaged_student()
        if names:
            raise fault('student', names, step)

    def damaged_student(self, on_all_ranks: bool = False) -> list[str]:
        """Names of the student's tensors that are not finite."""
        checked = ((pair.name, pair.student) for pair in self._checked())
        return not_finite(checked, on_all_ranks)

    def _checked(self) -> list[TensorPair]:
        """The pairs that are to be finite; first what is trained, which a fault then names."""
        pairs = self._smoother.pairs.values()
        trained = [pair for pair in pairs if pair.student.requires_grad]
        statistics = [pair for pair in pairs if pair.name.rpartition('.')[2] in STATISTICS]
        return trained + [pair for pair in statistics if not pair.student.requires_grad]


def fault(whose: str, names: Sequence[str], step: int) -> TeacherFault:
    """The error about tensors that are not finite."""
    more = f', and so are {len(names) - 1} others' if len(names) > 1 else ''
    return TeacherFault(
        f'the {whose} must be finite, but at update {step} its tensor {names[0]!r} is not{more}: '
        f'nothing of it was taken over or saved; resume from the last checkpoint, for example with '
        f'a lower learning rate'
    )


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]], on_all_ranks: bool = False) -> list[str]:
    """Names of the tensors that are not finite; the host waits for the device once.

    Args:
        tensors: Named tensors, of which those of a floating-point dtype are checked. Of a sharded
            one, a rank checks its shard.
        on_all_ranks: Whether a tensor counts that is not finite on any rank, so that all of them
            decide alike. Then all must call this, with the same names.
    """
    parts = {name: local(tensor) for name, tensor in tensors if tensor.is_floating_point()}
    filled = {name: part for name, part in parts.items() if part.numel()}
    ends: list[Tensor] = []
    for part in filled.values():
        if part.dtype == torch.float16 and part.device.type == 'cpu':
            part = part.float()  # PyTorch 2.1 cannot reduce it.
        # A NaN is both the least and the greatest.
        ends += [end.to(ends[0].device if ends else end.device) for end in torch.aminmax(part)]
    finite = torch.stack(ends).isfinite().view(-1, 2).all(1).tolist() if ends else []
    bad = {name for name, each in zip(filled, finite) if not each}
    if on_all_ranks:
        bad = {name for names in all_ranks(sorted(bad)) for name in names}
    return [name for name in parts if name in bad]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if _distributed() else 1


def all_ranks(value: Any) -> list[Any]:
    """The values of all ranks, in plain types. All ranks must call this."""
    if not _distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def digest(tensor: Tensor) -> bytes:
    """A hash of a tensor's bits in the order of its indices, however they lie in memory."""
    numbers = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha1(numbers.cpu().numpy().data, usedforsecurity=False).digest()


def differing(tensors: Sequence[tuple[str, Tensor]]) -> list[tuple[str, int]]:
    """The name of each tensor that differs from rank 0's, with the first rank where it does.

    All ranks must call this, with the same names in the same order, and get the same answer.
    """
    rows = all_ranks([digest(tensor) for _, tensor in tensors])
    found = []
    for (name, _), column in zip(tensors, zip(*rows)):
        ranks = [rank for rank, number in enumerate(column) if number != column[0]]
        if ranks:
            found.append((name, ranks[0]))
    return found
