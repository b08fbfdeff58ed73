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
from torch.autograd.graph import increment_version

from se_mm.smoothing.kernels.base import Table, copied_alike, dtype_name
from se_mm.smoothing.picks import signed, stream, threshold
from se_mm.smoothing.units import Pair, Units, same_layout

try:  # Triton comes with PyTorch where that supports CUDA.
    triton_kernel: Any = import_module('se_mm.smoothing.kernels.triton_kernel')
except ImportError:
    triton_kernel = None

_FLOATS = {'float32', 'float64', 'bfloat16', 'float16'}
# Triton before 3.5 ends the process where it compiles this.
_REFUSED = ('bfloat16', 'float64')
# The kernel counts a tensor's numbers in 32 bits.
_MOST = 1 << 31


class CUDAKernel:
    """Updates units on a GPU in one launch: see :class:`~se_mm.smoothing.kernels.base.Kernel`."""

    def __init__(self, units: Units) -> None:
        kinds = {'channel': triton_kernel.CHANNELS, 'element': triton_kernel.ELEMENTS}
        self._kind = kinds.get(units.granularity, triton_kernel.WHOLE)
        self._teachers = [pair.teacher for pair in units.pairs]
        self._table = Table(units, triton_kernel.BLOCK)
        if self._table.reordered:
            self._kind = triton_kernel.ELEMENTS_LAST

    @staticmethod
    def takes(pair: Pair, granularity: str) -> bool:
        """Whether both are on one GPU, laid out alike, and the kernel runs there."""
        teacher, student = pair.teacher, pair.student
        if teacher.device.type != 'cuda' or student.device != teacher.device:
            return False
        names = dtype_name(teacher.dtype), dtype_name(student.dtype)
        known = _FLOATS.issuperset(names) if teacher.is_floating_point() else copied_alike(pair)
        fits = teacher.numel() < _MOST
        known = known and names != _REFUSED
        return known and fits and same_layout(pair, 'tensor') and runs(teacher.device, *names)

    def update(self, seed: int, step: int, keep_prob: float, weight: Optional[float]) -> None:
        """Make one update."""
        table = self._table
        if not len(table.programs):  # A rank may have nothing of a small sharded tensor.
            return
        launch(table, self._kind, signed(stream(seed, step)), threshold(keep_prob), weight)
        # As PyTorch's own operations do: a backward that needs the old values then fails.
        for teacher in self._teachers:
            increment_version(teacher)


def launch(table: Table, kind: int, key: int, least: int, weight: Optional[float]) -> None:
    """Launch the kernel: see :func:`~se_mm.smoothing.kernels.triton_kernel.update`."""
    device = table.tensors.device
    with torch.cuda.device_of(table.tensors):  # type: ignore[no-untyped-call]
        triton_kernel.update[(len(table.programs),)](
            table.tensors,
            table.programs,
            key,
            least,
            # Floating-point arguments of a kernel are float32: pass the bits of a float64.
            struct.unpack('q', struct.pack('d', weight or 0.0))[0],
            *(_example(device, dtype) for dtype in table.moved_as(weight)),
            AVERAGES=weight is not None,
            UNITS=kind,
            BLOCK=triton_kernel.BLOCK,
            ALIGNED=table.aligned,
        )


@cache
def _example(device: torch.device, dtype: str) -> Tensor:
    return torch.empty(1, dtype=getattr(torch, dtype), device=device)


@cache
def runs(device: torch.device, teacher: str, student: str) -> bool:
    """Whether the kernel compiles and runs for two dtypes on a GPU, by a trial launch.

    It does not where there is no C compiler or no Python headers, or on cards that are too old for
    a dtype. The plain backend is used there, and one warning says so.
    """
    if triton_kernel is None:
        _warn(f'Triton is not installed, so updates on {device} take several launches each')
        return False
    tensors = [
        torch.zeros(2, device=device, dtype=getattr(torch, dtype)) for dtype in (teacher, student)
    ]
    units = Units([Pair('trial', *tensors)], 'tensor')
    table = Table(units, triton_kernel.BLOCK)
    try:
        for weight in (None, 0.5) if tensors[0].is_floating_point() else (None,):
            launch(table, triton_kernel.WHOLE, 0, -(1 << 31), weight)
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
