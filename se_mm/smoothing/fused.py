# SPDX-License-Identifier: Apache-2.0
"""All units of all tensors by one kernel, which draws the picks itself.

Only what is picked is read and written, once, and nothing is allocated. The kernel finds the
tensors by a table of their addresses. There are two that do the same: one in Triton for CUDA GPUs,
where an update is one launch of which the host awaits nothing, and one in C for the CPU, whose
blocks of tensors are shared out among PyTorch's threads.
"""

from __future__ import annotations

import struct
from importlib import import_module
from typing import Any, Optional

import torch
from torch.autograd.graph import increment_version

from se_mm.smoothing.picks import signed, stream, threshold
from se_mm.smoothing.units import Pair, Units, same_layout


def _installed(name: str) -> Any:
    """A module of this package; None where what it needs is not there."""
    try:
        return import_module(f'se_mm.smoothing.{name}')
    except ImportError:
        return None


# Built where there is a C compiler; Triton comes with PyTorch where that supports CUDA.
cpu_kernel, cuda_kernel = _installed('cpu_kernel'), _installed('cuda_kernel')

# What the kernel for GPUs averages; that for the CPU says it itself.
_FLOATS = {'float32', 'float64', 'bfloat16', 'float16'}
# Copies of one dtype are made as integers of so many bytes, whatever they stand for.
_INTEGERS = {1: 'int8', 2: 'int16', 4: 'int32', 8: 'int64'}
# The kernel for GPUs counts a tensor's numbers by 32 bits.
_MOST_ON_GPU = 1 << 31
# On the CPU, so many numbers are worth a thread.
_PER_THREAD = 1 << 17


class Fused:
    """Updates teachers that are alike in dtype and device, and so are their students.

    Args:
        units: What is updated; every pair is one that :meth:`takes` says yes to.
        kernel: Which kernel; the device's if None.
    """

    def __init__(self, units: Units, kernel: Any = None) -> None:
        pair = units.pairs[0]
        self._kernel = kernel or _kernel(pair)
        self._granularity = units.granularity
        self._teachers = [pair.teacher for pair in units.pairs]
        self._dtypes = _name(pair.teacher.dtype), _name(pair.student.dtype)
        self._bytes = pair.teacher.dtype.itemsize
        self._numbers = sum(pair.teacher.numel() for pair in units.pairs)
        block = self._kernel.BLOCK
        table: list[tuple[int, ...]] = []
        programs: list[tuple[int, int]] = []
        for pair, first, size in zip(units.pairs, units.firsts, units.sizes):
            numbers = pair.teacher.numel()
            programs += [(len(table), index) for index in range(-(-numbers // block))]
            addresses = pair.teacher.data_ptr(), pair.student.data_ptr()
            table.append((*addresses, signed(first), size, numbers))
        self._table = torch.tensor(table, dtype=torch.int64).to(pair.teacher.device)
        self._programs = (
            torch.tensor(programs, dtype=torch.int32).view(-1, 2).to(pair.teacher.device)
        )

    @staticmethod
    def takes(pair: Pair, granularity: str) -> bool:
        """Whether there is a kernel for this tensor."""
        teacher, student, kernel = pair.teacher, pair.student, _kernel(pair)
        if kernel is None or teacher.device != student.device:
            return False
        if teacher.is_floating_point():
            dtypes = _name(teacher.dtype), _name(student.dtype)
            known = (
                cpu_kernel.takes(*dtypes) if kernel is cpu_kernel else _FLOATS.issuperset(dtypes)
            )
        else:  # Others are only copied.
            known = teacher.dtype == student.dtype and teacher.dtype.itemsize in _INTEGERS
        fits = kernel is cpu_kernel or teacher.numel() < _MOST_ON_GPU
        return known and fits and same_layout(pair, granularity)

    def update(self, seed: int, step: int, keep_prob: float, average: Optional[float]) -> None:
        """Make one update.

        Args:
            seed: Seed of the picks.
            step: The update step, at least 0.
            keep_prob: Probability in [0, 1) that a unit is kept.
            average: Weight of the student's value in a picked unit; None: it is copied.
        """
        if not len(self._programs):  # Of a small sharded tensor a rank may have nothing.
            return
        dtypes = self._dtypes
        if average is None and dtypes[0] == dtypes[1]:
            dtypes = _INTEGERS[self._bytes], _INTEGERS[self._bytes]
        key, least = signed(stream(seed, step)), threshold(keep_prob)
        way = self._run if self._kernel is cpu_kernel else self._launch
        way(dtypes, key, least, average)
        # As PyTorch's own operations do: a backward that needs the old values then refuses.
        for teacher in self._teachers:
            increment_version(teacher)

    def _run(self, dtypes: tuple[str, str], key: int, least: int, average: Optional[float]) -> None:
        """Update on the CPU."""
        cpu_kernel.update(
            *dtypes,
            self._table.data_ptr(),
            self._programs.data_ptr(),
            len(self._programs),
            self._numbers * self._bytes,
            key,
            least,
            average is not None,
            average or 0.0,
            self._granularity == 'element',
            min(torch.get_num_threads(), 1 + self._numbers // _PER_THREAD),
        )

    def _launch(
        self, dtypes: tuple[str, str], key: int, least: int, average: Optional[float]
    ) -> None:
        """Update on a GPU."""
        units = {'channel': cuda_kernel.CHANNELS, 'element': cuda_kernel.ELEMENTS}
        teacher, student = (getattr(cuda_kernel.tl, dtype) for dtype in dtypes)
        with torch.cuda.device_of(self._table):  # type: ignore[no-untyped-call]
            cuda_kernel.update[(len(self._programs),)](
                self._table,
                self._programs,
                key,
                least,
                # A kernel's floating arguments are float32, so the bits of a float64 are passed.
                struct.unpack('q', struct.pack('d', average or 0.0))[0],
                TEACHER=teacher,
                STUDENT=student,
                AVERAGES=average is not None,
                UNITS=units.get(self._granularity, cuda_kernel.WHOLE),
                BLOCK=cuda_kernel.BLOCK,
            )


def _kernel(pair: Pair) -> Any:
    """The kernel of a device; None where there is none."""
    return {'cpu': cpu_kernel, 'cuda': cuda_kernel}.get(pair.teacher.device.type)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')
