# SPDX-License-Identifier: Apache-2.0
"""Find tensors with infinities or NaNs, with one wait for the device where there are none."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from se_mm.smoothing.guards.ranks import max_over_ranks
from se_mm.smoothing.units import local


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]], on_all_ranks: bool = False) -> list[str]:
    """Names of the tensors that are not finite.

    Example:
        >>> import torch
        >>> from se_mm.smoothing.guards import not_finite
        >>> not_finite([('a', torch.ones(3)), ('b', torch.tensor([1.0, float('nan')]))])
        ['b']

    Args:
        tensors: Named tensors, of which those of a floating-point dtype are checked. Of a sharded
            one, a rank checks its shard.
        on_all_ranks: Whether a tensor counts that is not finite on any rank, so that all of them
            decide alike. Then all must call this, with the same names.
    """
    named = [
        (name, local(tensor))
        for name, tensor in tensors
        if tensor.is_floating_point() and tensor.numel()
    ]
    if not named:
        return []
    device = named[0][1].device
    # A norm is infinite or NaN if any number is. It may also be if none is, where a sum overflows.
    norms = [
        torch.stack(torch._foreach_norm(batch)).float().sum().to(device)
        for batch in _batches(_computable(part) for _, part in named if part.numel())
    ]
    suspect = ~torch.stack([torch.zeros((), device=device), *norms]).isfinite().all()
    if not _any(suspect.to(torch.int32), on_all_ranks):
        return []
    # A NaN is both the least and the greatest, and no sum is made.
    ends = [
        torch.stack(torch.aminmax(_computable(part))).isfinite().all()
        if part.numel()
        else torch.ones((), dtype=torch.bool, device=device)
        for _, part in named
    ]
    bad = torch.stack([~end.to(device) for end in ends]).to(torch.int32)
    found = max_over_ranks(bad) if on_all_ranks else bad
    return [name for (name, _), one in zip(named, found.tolist()) if one]


def _batches(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors of one device and dtype each."""
    found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    return list(found.values())


def _computable(tensor: Tensor) -> Tensor:
    """A tensor that PyTorch 2.1 can reduce: it cannot with float16 on the CPU."""
    half = tensor.dtype == torch.float16 and tensor.device.type == 'cpu'
    return tensor.float() if half else tensor


def _any(flag: Tensor, on_all_ranks: bool) -> bool:
    return bool(max_over_ranks(flag.view(1)) if on_all_ranks else flag)
