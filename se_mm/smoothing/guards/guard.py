# SPDX-License-Identifier: Apache-2.0
"""Check that student and teacher are finite, and that all ranks have the same teacher."""

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
from se_mm.smoothing.units import is_sharded, local


class Guard:
    """Checks student and teacher around the updates.

    Trained tensors and the running statistics of batch norms must be finite. Other buffers are not
    checked: a mask may be infinite on purpose.

    Args:
        smoother: What updates the teacher. Its settings say when to check.
        skipped: Called for each update that is skipped because the student is not finite, with the
            tensors' names, the update step and the number of skipped updates. None: raise instead.

    Raises:
        OptionError: If sharded teachers were to be compared.
    """

    def __init__(
        self,
        smoother: Smoother,
        skipped: Optional[Callable[[Sequence[str], int, int], None]] = None,
    ) -> None:
        self._smoother = smoother
        self._check_teachers = smoother.settings.check_teachers
        self._check_finite = smoother.settings.check_finite
        self._skipped = skipped
        sharded = [n for n, pair in smoother.named().items() if is_sharded(pair.teacher)]
        if self._check_teachers and sharded:
            raise OptionError(
                f'check_teachers cannot compare sharded parameters ({sharded[0]!r}): set '
                f'check_teachers=0'
            )
        self._count_skipped = 0
        self._opportunities = 0

    def allows(self, step: int, student: nn.Module) -> bool:
        """Whether the student is finite, so that an update may be made. All ranks must call this.

        Raises TeacherFault otherwise, unless such updates are skipped.
        """
        if not self._check_finite:
            return True
        self._opportunities += 1
        if self._opportunities > 1 and self._opportunities % self._check_finite:
            return True
        self._smoother.refresh(student)  # Tensors may have been replaced since the last update.
        names = self._not_finite('student', on_all_ranks=True)
        if not names:
            return True
        if self._skipped is None:
            raise fault('student', names, step)
        self._count_skipped += 1
        self._skipped(names, step, self._count_skipped)
        return False

    def compare(self, step: int) -> None:
        """Raise TeacherFault, on all ranks, if their teachers differ. All ranks must call this.

        Compares parameters, and the float32 averages of low-precision ones. Buffers may differ, if
        a batch norm is not synchronised.
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
        """Raise TeacherFault for a teacher that is not finite, or a student, unless it is skipped.

        Called by the rank that saves.
        """
        if not self._check_finite:
            return
        for whose in ('teacher',) if self._skipped else ('teacher', 'student'):
            names = self._not_finite(whose)
            if names:
                raise fault(whose, names, step)

    def _not_finite(self, whose: str, on_all_ranks: bool = False) -> list[str]:
        """Names of the tensors of one model that are not finite, trained ones first."""
        pairs = self._smoother.pairs.values()
        trained = [pair for pair in pairs if pair.student.requires_grad]
        statistics = [pair for pair in pairs if pair.name.rpartition('.')[2] in STATISTICS]
        checked = ((pair.name, getattr(pair, whose)) for pair in trained + statistics)
        return not_finite(checked, on_all_ranks)


def fault(whose: str, names: Sequence[str], step: int) -> TeacherFault:
    """The error about tensors that are not finite."""
    more = f', and so are {len(names) - 1} others' if len(names) > 1 else ''
    return TeacherFault(
        f'the {whose} must be finite, but at update {step} its tensor {names[0]!r} is not{more}: '
        f'it was neither used nor saved; resume from the last checkpoint, for example with a lower '
        f'learning rate'
    )


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]], on_all_ranks: bool = False) -> list[str]:
    """Names of the tensors that are not finite. The host waits for the device once.

    Args:
        tensors: Named tensors; integers are ignored. A rank checks its shard of a sharded tensor.
        on_all_ranks: Whether to add the names found on other ranks. All ranks must then call this
            with the same names.
    """
    parts = {name: local(tensor) for name, tensor in tensors if tensor.is_floating_point()}
    filled = {name: part for name, part in parts.items() if part.numel()}
    ends: list[Tensor] = []
    for part in filled.values():
        if part.dtype == torch.float16 and part.device.type == 'cpu':
            part = part.float()  # PyTorch 2.1 cannot reduce it.
        # A NaN is both the minimum and the maximum.
        ends += [end.to(ends[0].device if ends else end.device) for end in torch.aminmax(part)]
    finite = torch.stack(ends).isfinite().view(-1, 2).all(1).tolist() if ends else []
    bad = {name for name, each in zip(filled, finite) if not each}
    if on_all_ranks:
        bad = {name for names in all_ranks(sorted(bad)) for name in names}
    return [name for name in parts if name in bad]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if _distributed() else 1


def all_ranks(value: Any) -> list[Any]:
    """The values of all ranks, in plain types. All ranks must call this."""
    if not _distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def digest(tensor: Tensor) -> bytes:
    """A hash of a tensor's bits, which does not depend on its memory format."""
    numbers = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha1(numbers.cpu().numpy().data, usedforsecurity=False).digest()


def differing(tensors: Sequence[tuple[str, Tensor]]) -> list[tuple[str, int]]:
    """Name of each tensor that differs from rank 0's, with the first rank on which it does.

    All ranks must call this with the same names, and get the same result.
    """
    rows = all_ranks([digest(tensor) for _, tensor in tensors])
    found = []
    for (name, _), column in zip(tensors, zip(*rows)):
        ranks = [rank for rank, number in enumerate(column) if number != column[0]]
        if ranks:
            found.append((name, ranks[0]))
    return found
