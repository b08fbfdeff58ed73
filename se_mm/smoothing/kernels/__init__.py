# SPDX-License-Identifier: Apache-2.0
"""Backends of an update, behind one interface: :class:`Kernel`.

======== =========================================================================================
backend  for
======== =========================================================================================
cpu      teacher and student on the CPU, laid out alike in memory: one call of a C extension
cuda     the same on one GPU: one launch of a Triton kernel
plain    everything else: offloaded teachers, other layouts and dtypes, averages that are functions
======== =========================================================================================

All of them write the same values: copies to the bit, averages to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

from se_mm.smoothing.kernels.base import Kernel
from se_mm.smoothing.kernels.cpu import CPUKernel
from se_mm.smoothing.kernels.cuda import CUDAKernel
from se_mm.smoothing.kernels.plain import PlainKernel
from se_mm.smoothing.tensors import grouped
from se_mm.smoothing.units import Pair, Units

__all__ = ['CPUKernel', 'CUDAKernel', 'Kernel', 'PlainKernel', 'choose']


def choose(pairs: Sequence[Pair], granularity: str) -> list[Kernel]:
    """The fastest backend for each of some pairs.

    Args:
        pairs: The pairs, none of them empty.
        granularity: One of :data:`~se_mm.smoothing.settings.GRANULARITIES`.

    Returns:
        Kernels that together update all pairs.
    """
    kernels: list[Kernel] = []
    for batch in grouped(pairs, lambda pair: pair.kind):
        left = batch
        for kernel in (CPUKernel, CUDAKernel):
            taken = [pair for pair in left if kernel.takes(pair, granularity)]
            if taken:
                kernels.append(kernel(Units(taken, granularity)))
                left = [pair for pair in left if not kernel.takes(pair, granularity)]
        if left:
            kernels.append(PlainKernel(Units(left, granularity)))
    return kernels
