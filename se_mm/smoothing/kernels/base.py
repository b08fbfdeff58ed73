# SPDX-License-Identifier: Apache-2.0
"""The interface of a backend, the plain one, and what the others share."""

from __future__ import annotations

from typing import Optional, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from se_mm.smoothing.picks import signed, stream, threshold
from se_mm.smoothing.units import TensorPair, Units
from se_mm.smoothing.update import draw_picks, update

# Copies within one dtype move integers of this many bytes, whatever they stand for.
INTEGERS = {1: 'int8', 2: 'int16', 4: 'int32', 8: 'int64'}


class Kernel(Protocol):
    """Updates teachers that are alike in dtype and device, as are their students.

    Args:
        units: What is updated: every pair is one that :meth:`takes`.
    """

    def __init__(self, units: Units) -> None: ...

    @staticmethod
    def takes(pair: TensorPair, granularity: str) -> bool:
        """Whether this backend can update a pair."""

    def update(self, seed: int, step: int, keep_prob: float, weight: Optional[float]) -> None:
        """Make one update.

        Args:
            seed: Seed of the picks.
            step: The update step, at least 0.
            keep_prob: Probability in [0, 1) that a unit is kept.
            weight: Weight of the student's value in a picked unit; None copies it.
        """


class Table:
    """The tensors of some units and the blocks they are divided into, as a kernel reads them.

    Args:
        units: The units.
        block: Numbers of a block, which one program of the kernel updates.

    ``tensors`` is ``(tensors, 6)`` int64: addresses of teacher and student, key of the first unit,
    numbers in a unit, numbers in all, channels. Of elements in a channels_last format, the fourth
    has the numbers of a channel in one image; of all others, channels is 1. ``programs`` is
    ``(programs, 2)`` int32: the tensor, and which block of it.
    """

    def __init__(self, units: Units, block: int) -> None:
        table: list[tuple[int, ...]] = []
        programs: list[tuple[int, int]] = []
        for pair, first, size in zip(units.pairs, units.firsts, units.sizes):
            numbers = pair.teacher.numel()
            programs += [(len(table), index) for index in range(-(-numbers // block))]
            addresses = pair.teacher.data_ptr(), pair.student.data_ptr()
            channels = 1
            if units.granularity == 'element' and not pair.teacher.is_contiguous():
                channels = pair.teacher.shape[1]
                size = numbers // (pair.teacher.shape[0] * channels)
            table.append((*addresses, signed(first), size, numbers, channels))
        first_pair = units.pairs[0]
        device = first_pair.teacher.device
        self.tensors: Tensor = torch.tensor(table, dtype=torch.int64).to(device)
        self.programs: Tensor = torch.tensor(programs, dtype=torch.int32).view(-1, 2).to(device)
        self.numbers = sum(pair.teacher.numel() for pair in units.pairs)
        self.dtypes = dtype_name(first_pair.teacher.dtype), dtype_name(first_pair.student.dtype)
        # Whether all begin at multiples of 16 bytes; whether any elements are channels_last.
        self.aligned = not any(address % 16 for row in table for address in row[:2])
        self.reordered = any(row[-1] > 1 for row in table)
        self.bytes = first_pair.teacher.dtype.itemsize

    def moved_as(self, weight: Optional[float]) -> tuple[str, str]:
        """Names of the dtypes that an update reads and writes the numbers as."""
        if weight is None and self.dtypes[0] == self.dtypes[1]:
            return INTEGERS[self.bytes], INTEGERS[self.bytes]
        return self.dtypes


class PlainKernel:
    """Updates the units as the method is written down: see :mod:`~se_mm.smoothing.update`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    @staticmethod
    def takes(pair: TensorPair, granularity: str) -> bool:
        """Whether this backend can update a pair: it can update all."""
        return True

    def update(self, seed: int, step: int, keep_prob: float, weight: Optional[float]) -> None:
        """Make one update: see :class:`Kernel`."""
        update(self._units.pairs, draw_picks(self._units, seed, step, keep_prob), weight)


class TableKernel:
    """What the kernels for CPU and GPU have in common: an update in one call, from a table."""

    block: int

    def __init__(self, units: Units) -> None:
        self._granularity = units.granularity
        self._teachers = [pair.teacher for pair in units.pairs]
        self._table = Table(units, self.block)

    def launch(self, key: int, least: int, weight: Optional[float]) -> None:
        """Make one update, with what it adds to the keys and the threshold of its picks."""
        raise NotImplementedError

    def update(self, seed: int, step: int, keep_prob: float, weight: Optional[float]) -> None:
        """Make one update: see :class:`Kernel`."""
        if not len(self._table.programs):  # A rank may have nothing of a small sharded tensor.
            return
        self.launch(signed(stream(seed, step)), threshold(keep_prob), weight)
        # As PyTorch's own operations do: a backward that needs the old values then fails.
        for teacher in self._teachers:
            increment_version(teacher)


def dtype_name(dtype: torch.dtype) -> str:
    """``'float32'`` for ``torch.float32``."""
    return str(dtype).removeprefix('torch.')


def copied_alike(pair: TensorPair) -> bool:
    """Whether a pair that is only ever copied can be moved as integers."""
    return pair.teacher.dtype == pair.student.dtype and pair.teacher.dtype.itemsize in INTEGERS
