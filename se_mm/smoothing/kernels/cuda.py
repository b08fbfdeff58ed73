# SPDX-License-Identifier: Apache-2.0
"""The backend for CUDA GPUs: one launch of a Triton kernel, for which the host does not wait."""

from __future__ import annotations

import struct
import warnings
from functools import cache
from importlib import import_module
from typing import Any, Optional

import torch
from torch import Tensor

from se_mm.smoothing.kernels.base import TableKernel, copied_alike, dtype_name
from se_mm.smoothing.units import TensorPair, Units, same_layout

try:  # Triton comes with PyTorch where that supports CUDA.
    triton_kernel: Any = import_module('se_mm.smoothing.kernels.triton_kernel')
except ImportError:
    triton_kernel = None

_FLOATS = {'float32', 'float64', 'bfloat16', 'float16'}
# Triton before 3.5 ends the process when it compiles this.
_REFUSED = ('bfloat16', 'float64')
# The kernel counts a tensor's elements in 32 bits.
_MOST = 1 << 31


class CUDAKernel(TableKernel):
    """Updates units on a GPU in one launch; the interface is that of ``PlainKernel``."""

    block = getattr(triton_kernel, 'BLOCK', 0)

    def __init__(self, units: Units) -> None:
        super().__init__(units)
        kinds = {'channel': triton_kernel.CHANNELS, 'element': triton_kernel.ELEMENTS}
        self._kind = kinds.get(units.granularity, triton_kernel.WHOLE)
        if self._reordered:
            self._kind = triton_kernel.ELEMENTS_LAST

    @staticmethod
    def takes(pair: TensorPair, granularity: str) -> bool:
        """Whether both are on one GPU with the same memory format, and the kernel runs there."""
        teacher, student = pair.teacher, pair.student
        if teacher.device.type != 'cuda' or student.device != teacher.device:
            return False
        names = dtype_name(teacher.dtype), dtype_name(student.dtype)
        known = _FLOATS.issuperset(names) if teacher.is_floating_point() else copied_alike(pair)
        known = known and names != _REFUSED and teacher.numel() < _MOST
        return known and same_layout(pair, 'tensor') and runs(teacher.device, *names)

    def launch(self, key: int, least: int, weight: Optional[float]) -> None:
        """Make one update: see :func:`~se_mm.smoothing.kernels.triton_kernel.update`."""
        device = self.tensors.device
        with torch.cuda.device_of(self.tensors):  # type: ignore[no-untyped-call]
            triton_kernel.update[(len(self.programs),)](
                self.tensors,
                self.programs,
                key,
                least,
                # Floating-point arguments of a kernel are float32: pass the bits of a float64.
                struct.unpack('q', struct.pack('d', weight or 0.0))[0],
                *(_example(device, dtype) for dtype in self.dtypes(weight)),
                AVERAGES=weight is not None,
                UNITS=self._kind,
                BLOCK=self.block,
                ALIGNED=self._aligned,
            )


@cache
def _example(device: torch.device, dtype: str) -> Tensor:
    return torch.empty(1, dtype=getattr(torch, dtype), device=device)


@cache
def runs(device: torch.device, teacher: str, student: str) -> bool:
    """Try to launch the kernel for the dtypes of teacher and student, and return whether it runs.

    It does not without a C compiler or the Python headers, or on a GPU that is too old for a dtype.
    The plain backend is then used, and one warning says so.
    """
    if triton_kernel is None:
        _warn(f'Triton is not installed, so updates on {device} take several launches each')
        return False
    tensors = [
        torch.zeros(2, device=device, dtype=getattr(torch, dtype)) for dtype in (teacher, student)
    ]
    kernel = CUDAKernel(Units([TensorPair('trial', *tensors)], 'tensor'))
    try:
        for weight in (None, 0.5) if tensors[0].is_floating_point() else (None,):
            kernel.update(0, 0, 0.0, weight)
        torch.cuda.synchronize(device)
    except Exception as error:  # Compilers fail in many ways.
        reason = ' '.join(str(error).split())[:200]
        _warn(
            f'the Triton kernel does not run on {device} for {teacher} from {student}, so updates '
            f'take several launches each: {type(error).__name__}: {reason}'
        )
        return False
    return True


@cache
def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)
