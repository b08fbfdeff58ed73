# SPDX-License-Identifier: Apache-2.0
"""The backend for the CPU: a C extension, built on installation where there is a compiler.

It touches only what is picked, once, draws the picks itself and allocates nothing. Blocks of the
tensors are shared out among the threads of the OpenMP library that PyTorch has loaded.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from typing import Any, Optional

import torch
from torch.autograd.graph import increment_version

from se_mm.smoothing.kernels.base import Table, copied_alike, dtype_name
from se_mm.smoothing.picks import signed, stream, threshold
from se_mm.smoothing.units import Pair, Units, same_layout

try:
    cpu_kernel: Any = import_module('se_mm.smoothing.kernels.cpu_kernel')
except ImportError:
    cpu_kernel = None

# Numbers that are worth a thread.
_PER_THREAD = 1 << 17


class CPUKernel:
    """Updates units on the CPU in one call: see :class:`~se_mm.smoothing.kernels.base.Kernel`."""

    def __init__(self, units: Units) -> None:
        self._by_element = units.granularity == 'element'
        self._teachers = [pair.teacher for pair in units.pairs]
        self._table = Table(units, cpu_kernel.BLOCK)

    @staticmethod
    def takes(pair: Pair, granularity: str) -> bool:
        """Whether both tensors are on the CPU, of dtypes it knows, and laid out alike."""
        teacher, student = pair.teacher, pair.student
        if teacher.device.type != 'cpu' or student.device.type != 'cpu':
            return False
        if cpu_kernel is None:
            _say_missing()
            return False
        if teacher.is_floating_point():
            known = cpu_kernel.takes(dtype_name(teacher.dtype), dtype_name(student.dtype))
        else:
            known = copied_alike(pair)
        return known and same_layout(pair, granularity)

    def update(self, seed: int, step: int, keep_prob: float, weight: Optional[float]) -> None:
        """Make one update."""
        table = self._table
        if not len(table.programs):  # A rank may have nothing of a small sharded tensor.
            return
        cpu_kernel.update(
            *table.moved_as(weight),
            table.tensors.data_ptr(),
            table.programs.data_ptr(),
            len(table.programs),
            table.numbers * table.bytes,
            signed(stream(seed, step)),
            threshold(keep_prob),
            weight is not None,
            weight or 0.0,
            self._by_element,
            min(torch.get_num_threads(), 1 + table.numbers // _PER_THREAD),
        )
        # As PyTorch's own operations do: a backward that needs the old values then fails.
        for teacher in self._teachers:
            increment_version(teacher)


@cache
def _say_missing() -> None:
    warnings.warn(
        'se_mm was installed without its C extension, so updates on the CPU take several times as '
        'long: install a C compiler and reinstall se_mm.',
        stacklevel=2,
    )
