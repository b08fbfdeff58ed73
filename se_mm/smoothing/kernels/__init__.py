# SPDX-License-Identifier: Apache-2.0
"""Backends of an update, behind one interface: :class:`PlainKernel`.

======== =========================================================================================
backend  for
======== =========================================================================================
cpu      teacher and student on the CPU, in the same memory format: one call of a C extension
cuda     the same on one GPU: one launch of a Triton kernel
plain    everything else: offloaded teachers, other layouts and dtypes, averages that are functions
======== =========================================================================================

All backends write the same values: copies are bit-exact, averages equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

from se_mm.smoothing.kernels.base import Kernel, PlainKernel
from se_mm.smoothing.kernels.cpu import CPUKernel
from se_mm.smoothing.kernels.cuda import CUDAKernel
from se_mm.smoothing.tensors import grouped
from se_mm.smoothing.units import TensorPair, Units

__all__ = ['CPUKernel', 'CUDAKernel', 'Kernel', 'PlainKernel', 'choose']


def choose(pairs: Sequence[TensorPair], granularity: str) -> list[Kernel]:
    """Return kernels that together update some pairs, the fastest for each; no pair is empty."""

    def backend(pair: TensorPair) -> type[Kernel]:
        kernels: list[type[Kernel]] = [CPUKernel, CUDAKernel, PlainKernel]
        return next(kernel for kernel in kernels if kernel.takes(pair, granularity))

    batches = grouped(pairs, lambda pair: (pair.kind, backend(pair)))
    return [backend(batch[0])(Units(batch, granularity)) for batch in batches]
