# SPDX-License-Identifier: Apache-2.0
"""The plain backend, and what the other two share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Optional, Union

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from se_mm.smoothing.picks import signed, stream, threshold
from se_mm.smoothing.units import TensorPair, Units
from se_mm.smoothing.update import draw_picks, update

# Bytes of an element -> the dtype as which it is copied, if teacher and student have one dtype.
INTEGERS = {1: 'int8', 2: 'int16', 4: 'int32', 8: 'int64'}


class PlainKernel:
    """The plain backend, and the interface of the others: see :mod:`~se_mm.smoothing.update`.

    Args:
        units: What to update: pairs for which :meth:`takes` is True. All teachers have the same
            dtype and device, and so have all students.
    """

    def __init__(self, units: Units) -> None:
        self._units = units

    @staticmethod
    def takes(pair: TensorPair, granularity: str) -> bool:
        """Whether this backend can update a pair."""
        return True

    def update(self, seed: int, step: int, keep_prob: float, weight: Optional[float]) -> None:
        """Make one update.

        Args:
            seed: Seed of the picks.
            step: The update step, at least 0.
            keep_prob: Probability in [0, 1) that a unit is kept.
            weight: Weight of the student's value in a picked unit; None copies it.
        """
        update(self._units.pairs, draw_picks(self._units, seed, step, keep_prob), weight)


class TableKernel(ABC):
    """What the kernels for CPU and GPU share: an update in one call, from tables.

    Attributes:
        block: Elements that one program of the kernel updates.
        tensors: ``(tensors, 6)`` int64: addresses of teacher and student, key of the first unit,
            elements of a unit, elements in all, channels. For element units in a channels_last
            format, the fourth is the elements of a channel in one image; otherwise channels is 1.
        programs: ``(programs, 2)`` int32: the tensor, and the index of its block.
    """

    block: int

    def __init__(self, units: Units) -> None:
        table: list[tuple[int, ...]] = []
        programs: list[tuple[int, int]] = []
        for pair, first, size in zip(units.pairs, units.firsts, units.sizes):
            count = pair.teacher.numel()
            programs += [(len(table), index) for index in range(-(-count // self.block))]
            channels = 1
            if units.granularity == 'element' and not pair.teacher.is_contiguous():
                channels = pair.teacher.shape[1]
                size = count // (pair.teacher.shape[0] * channels)
            addresses = pair.teacher.data_ptr(), pair.student.data_ptr()
            table.append((*addresses, signed(first), size, count, channels))
        pair = units.pairs[0]
        device = pair.teacher.device
        self.tensors: Tensor = torch.tensor(table, dtype=torch.int64).to(device)
        self.programs: Tensor = torch.tensor(programs, dtype=torch.int32).view(-1, 2).to(device)
        self._granularity = units.granularity
        self._teachers = [pair.teacher for pair in units.pairs]
        self._elements = sum(teacher.numel() for teacher in self._teachers)
        self._bytes = pair.teacher.dtype.itemsize  # Of an element.
        self._dtypes = dtype_name(pair.teacher.dtype), dtype_name(pair.student.dtype)
        self._aligned = not any(address % 16 for row in table for address in row[:2])
        self._reordered = any(row[-1] > 1 for row in table)  # Elements in a channels_last format.

    @staticmethod
    @abstractmethod
    def takes(pair: TensorPair, granularity: str) -> bool:
        """Whether this backend can update a pair."""

    @abstractmethod
    def launch(self, key: int, least: int, weight: Optional[float]) -> None:
        """Make one update. ``key`` is added to the units' keys; ``least`` is the threshold."""

    def update(self, seed: int, step: int, keep_prob: float, weight: Optional[float]) -> None:
        """Make one update: see :class:`PlainKernel`."""
        if not len(self.programs):  # A rank may have nothing of a small sharded tensor.
            return
        self.launch(signed(stream(seed, step)), threshold(keep_prob), weight)
        # As PyTorch's own operations do: a backward that needs the old values then fails.
        for teacher in self._teachers:
            increment_version(teacher)

    def dtypes(self, weight: Optional[float]) -> tuple[str, str]:
        """Names of the dtypes as which an update accesses teacher and student."""
        if weight is None and self._dtypes[0] == self._dtypes[1]:
            return INTEGERS[self._bytes], INTEGERS[self._bytes]
        return self._dtypes


Kernel = Union[PlainKernel, TableKernel]


def dtype_name(dtype: torch.dtype) -> str:
    """``'float32'`` for ``torch.float32``."""
    return str(dtype).removeprefix('torch.')


def copied_alike(pair: TensorPair) -> bool:
    """Whether a pair that is only copied can be accessed as integers."""
    return pair.teacher.dtype == pair.student.dtype and pair.teacher.dtype.itemsize in INTEGERS
