# SPDX-License-Identifier: Apache-2.0
"""Units: the parts of a teacher that an update keeps or moves as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from se_mm.smoothing.picks import run_of_keys, unit_key


@dataclass(frozen=True)
class TensorPair:
    """A tensor of the teacher and the one of the student that it follows."""

    name: str  # Dotted name of the student's tensor in its model.
    teacher: Tensor  # Written; of any shape and dtype.
    student: Tensor  # Read; of the same shape, its dtype and device may differ.

    @property
    def kind(self) -> tuple[torch.device, torch.dtype, torch.device, torch.dtype]:
        """What must be equal for two pairs to go through one multi-tensor call."""
        return self.teacher.device, self.teacher.dtype, self.student.device, self.student.dtype


def is_sharded(tensor: Tensor) -> bool:
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


def sharded_alike(teacher: Any, student: Any) -> bool:
    """Whether both are whole tensors, or both are sharded in the same way."""
    if not (is_sharded(teacher) and is_sharded(student)):
        return is_sharded(teacher) == is_sharded(student)
    return bool(
        teacher.device_mesh == student.device_mesh and teacher.placements == student.placements
    )


def same_layout(pair: TensorPair, granularity: str) -> bool:
    """Whether units of both tensors lie in memory alike, without gaps, and in order.

    Channels may be in PyTorch's ``channels_last`` formats: each is then still in one piece.
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


class Units:
    """The units that some pairs split into.

    A unit is what is taken over or kept as a whole. It is known by a 64-bit key, made of names
    and indices alone, so that its picks do not depend on which other units there are. A channel is
    an index of dimension 0, the same in all tensors of that size that one module holds itself:
    ``weight[c]`` with ``bias[c]``.

    Args:
        pairs: The pairs, of floating dtype and not empty.
        granularity: One of :data:`~se_mm.smoothing.settings.GRANULARITIES`.

    Attributes:
        firsts: For each pair, the key of its first unit; for elements, of its first two.
        sizes: For each pair, how many of its numbers, in order, a unit has.
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
        """Runs of channels on each device, first key -> length, and all their keys in one tensor.

        A kernel that draws the picks itself does not need them.
        """
        runs: dict[torch.device, dict[int, int]] = {}
        for pair, first in zip(self.pairs, self.firsts):
            if self.granularity == 'channel':
                runs.setdefault(pair.teacher.device, {})[first] = self.run(pair)[1]
        return {
            device: (some, torch.cat([run_of_keys(*run) for run in some.items()]).to(device))
            for device, some in runs.items()
        }

    def run(self, pair: TensorPair) -> tuple[str, int]:
        """Name of the run of units that a pair has, maybe with others, and how many they are."""
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
