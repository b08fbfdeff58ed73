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

from se_mm.smoothing.kernels.base import TableKernel, copied_alike, dtype_name
from se_mm.smoothing.units import TensorPair, same_layout

try:
    cpu_kernel: Any = import_module('se_mm.smoothing.kernels.cpu_kernel')
except ImportError:
    cpu_kernel = None

# Numbers that are worth a thread.
_PER_THREAD = 1 << 17


class CPUKernel(TableKernel):
    """Updates units on the CPU in one call: see :class:`~se_mm.smoothing.kernels.base.Kernel`."""

    block = getattr(cpu_kernel, 'BLOCK', 0)

    @staticmethod
    def takes(pair: TensorPair, granularity: str) -> bool:
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

    def launch(self, key: int, least: int, weight: Optional[float]) -> None:
        """Make one update."""
        table = self._table
        cpu_kernel.update(
            *table.moved_as(weight),
            table.tensors.data_ptr(),
            table.programs.data_ptr(),
            len(table.programs),
            table.numbers * table.bytes,
            key,
            least,
            weight is not None,
            weight or 0.0,
            self._granularity == 'element',
            min(torch.get_num_threads(), 1 + table.numbers // _PER_THREAD),
        )


@cache
def _say_missing() -> None:
    warnings.warn(
        'se_mm was installed without its C extension, so updates on the CPU take several times as '
        'long: install a C compiler and reinstall se_mm.',
        stacklevel=2,
    )
