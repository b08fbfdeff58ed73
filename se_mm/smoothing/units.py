# SPDX-License-Identifier: Apache-2.0
"""Pairs of tensors, and units: the parts that an update keeps or changes as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Optional

import torch
from torch import Tensor

from se_mm.smoothing.picks import Elements, run_of_keys, unit_key


@dataclass(frozen=True)
class TensorPair:
    """A tensor of the teacher and the student's tensor that it follows."""

    name: str  # Dotted name of the student's tensor in its model.
    teacher: Tensor  # Written; of any shape and dtype.
    student: Tensor  # Read; of the same shape, its dtype and device may differ.

    @property
    def kind(self) -> tuple[torch.device, torch.dtype, torch.device, torch.dtype]:
        """What must be equal for two pairs to go through one multi-tensor call."""
        return self.teacher.device, self.teacher.dtype, self.student.device, self.student.dtype


def is_sharded(tensor: Optional[Tensor]) -> bool:
    """Whether it is a ``DTensor``, as the parameters of a ``fully_shard``-ed module are."""
    return hasattr(tensor, 'placements')


def is_dense(tensor: Tensor) -> bool:
    """Whether it is neither sparse nor quantised."""
    return tensor.layout == torch.strided and not tensor.is_quantized


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor that is sharded, else the tensor."""
    shard: Any = tensor
    return shard.to_local() if is_sharded(tensor) else tensor


def local_pair(pair: TensorPair) -> TensorPair:
    """The pair of this rank's shards, where the tensors are sharded."""
    if not is_sharded(pair.teacher):
        return pair
    return replace(pair, teacher=local(pair.teacher), student=local(pair.student))


def same_layout(pair: TensorPair, granularity: str) -> bool:
    """Whether both tensors have the same dense memory format, in which each unit is contiguous.

    Except for elements, this may be a ``channels_last`` format.
    """
    if not (is_dense(pair.teacher) and is_dense(pair.student)):
        return False
    formats = [torch.contiguous_format]
    if granularity != 'element':
        last = {4: torch.channels_last, 5: torch.channels_last_3d}
        formats += [last[dim] for dim in last if dim == pair.teacher.dim()]
    return any(
        pair.teacher.is_contiguous(memory_format=form)
        and pair.student.is_contiguous(memory_format=form)
        for form in formats
    )


def paired(
    name: str, teacher: Optional[Tensor], student: Optional[Tensor], error: type[Exception]
) -> TensorPair:
    """Pair two tensors, or raise ``error`` unless shape and sharding are equal."""
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
    sharding = [
        (getattr(tensor, 'device_mesh', None), getattr(tensor, 'placements', None))
        for tensor in (teacher, student)
    ]
    if sharding[0] != sharding[1]:
        raise error(
            f'teacher and student must be sharded in the same way, but {name!r} is not: apply '
            f'fully_shard to both, or to neither'
        )
    return TensorPair(name, teacher, student)


def memory(tensors: list[Optional[Tensor]]) -> list[int]:
    """Addresses and numbers of elements, which change when ``.data`` is replaced."""
    try:
        addresses = [*map(Tensor.data_ptr, tensors)]  # type: ignore[arg-type]
    except (RuntimeError, TypeError):  # A tensor is sparse, or gone.
        addresses = [0]
    if 0 in addresses:  # A sharded tensor has the address of its shard.
        tensors = [local(t) for t in tensors if t is not None and is_dense(t)]
        addresses = [*map(Tensor.data_ptr, tensors)]  # type: ignore[arg-type]
    return [*addresses, *map(Tensor.numel, tensors)]  # type: ignore[arg-type]


def as_real(pair: TensorPair) -> TensorPair:
    """View complex tensors as real ones."""
    if not pair.teacher.is_complex():
        return pair
    teacher, student = map(torch.view_as_real, (pair.teacher, pair.student))
    return replace(pair, teacher=teacher, student=student)


def same_memory(pair: TensorPair) -> bool:
    """Whether teacher and student are one tensor, or two names of the same memory."""
    teacher, student = pair.teacher, pair.student
    if teacher is student or teacher.is_meta or not is_dense(teacher) or is_sharded(teacher):
        return teacher is student
    same = teacher.device == student.device and teacher.data_ptr() == student.data_ptr()
    return bool(teacher.numel()) and same


class Units:
    """The units that some pairs split into.

    A unit is picked or kept as a whole. Its 64-bit key depends only on names and indices, so its
    picks do not depend on the other units. A channel is an index of dimension 0 in all tensors of
    that size that a module holds itself: ``weight[c]`` with ``bias[c]``.

    Args:
        pairs: The pairs, none of them empty.
        granularity: One of :data:`~se_mm.smoothing.settings.GRANULARITIES`.

    Attributes:
        firsts: For each pair, the key of its first unit; for elements, of its first two.
        sizes: For each pair, the number of its consecutive elements in a unit.
    """

    def __init__(self, pairs: Iterable[TensorPair], granularity: str) -> None:
        self.pairs = tuple(pairs)
        self.granularity = granularity
        self.firsts: list[int] = []
        self.sizes: list[int] = []
        for pair in self.pairs:
            name, count = self.run(pair)
            self.firsts.append(unit_key(name))
            self.sizes.append(pair.teacher.numel() // max(1, count))

    @cached_property
    def channels(self) -> dict[torch.device, tuple[dict[int, int], Tensor]]:
        """For each device, the runs of channels, first key -> length, and a tensor of all keys.

        Only the plain backend needs them: the kernels draw the picks themselves.
        """
        runs: dict[torch.device, dict[int, int]] = {}
        for pair, first in zip(self.pairs, self.firsts):
            if self.granularity == 'channel':
                runs.setdefault(pair.teacher.device, {})[first] = self.run(pair)[1]
        return {
            device: (some, torch.cat([run_of_keys(*run) for run in some.items()]).to(device))
            for device, some in runs.items()
        }

    @cached_property
    def elements(self) -> dict[torch.device, Elements]:
        """For each device, what draws the picks of its element units, for the plain backend."""
        runs: dict[torch.device, list[tuple[int, int]]] = {}
        for pair, first in zip(self.pairs, self.firsts):
            if self.granularity == 'element':
                runs.setdefault(pair.teacher.device, []).append((first, pair.teacher.numel()))
        return {device: Elements(some, device) for device, some in runs.items()}

    def run(self, pair: TensorPair) -> tuple[str, int]:
        """Name of the run of units that a pair belongs to, and its length."""
        owner = pair.name.rpartition('.')[0]
        if self.granularity == 'tensor':
            return pair.name, 1
        if self.granularity == 'layer':
            return owner, 1
        if self.granularity == 'element':
            return pair.name, pair.teacher.numel()
        channels = pair.teacher.shape[0] if pair.teacher.dim() else 1
        return f'{owner}[{channels}]', channels

    def __len__(self) -> int:
        """Number of units."""
        return sum(count for _, count in {self.run(pair) for pair in self.pairs})
