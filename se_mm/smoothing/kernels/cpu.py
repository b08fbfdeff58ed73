# SPDX-License-Identifier: Apache-2.0
"""The backend for the CPU: a C extension, built on installation where there is a compiler.

It reads and writes only what is picked, once, draws the picks itself and allocates nothing. The
blocks are distributed over the threads of the OpenMP library that PyTorch has loaded.
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

# Elements that are worth a thread.
_PER_THREAD = 1 << 17


class CPUKernel(TableKernel):
    """Updates units on the CPU in one call; the interface is that of ``PlainKernel``."""

    block = getattr(cpu_kernel, 'BLOCK', 0)

    @staticmethod
    def takes(pair: TensorPair, granularity: str) -> bool:
        """Whether both tensors are on the CPU, have known dtypes and the same memory format."""
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
        cpu_kernel.update(
            *self.dtypes(weight),
            self.tensors.data_ptr(),
            self.programs.data_ptr(),
            len(self.programs),
            self._elements * self._bytes,
            key,
            least,
            weight is not None,
            weight or 0.0,
            self._granularity == 'element',
            min(torch.get_num_threads(), 1 + self._elements // _PER_THREAD),
        )


@cache
def _say_missing() -> None:
    warnings.warn(
        'se_mm was installed without its C extension, so updates on the CPU take several times as '
        'long: install a C compiler and reinstall se_mm.',
        stacklevel=2,
    )
