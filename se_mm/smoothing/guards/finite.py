# SPDX-License-Identifier: Apache-2.0
"""Find tensors with infinities or NaNs, with one wait for the device."""

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
    ends: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    order: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, tensor in tensors:
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        part = local(tensor)
        batch = part.device, part.dtype
        order.setdefault(batch, []).append(name)
        # A NaN is both the least and the greatest. There is no sum that could overflow.
        some = part if part.numel() else part.new_zeros(1)
        if some.dtype == torch.float16 and some.device.type == 'cpu':
            some = some.float()  # PyTorch 2.1 has no aminmax for these.
        ends.setdefault(batch, []).extend(torch.aminmax(some))
    if not order:
        return []
    flags = [~torch.stack(both).isfinite().view(-1, 2).all(1) for both in ends.values()]
    found = torch.cat([flag.to(flags[0].device, torch.int32) for flag in flags])
    if on_all_ranks:
        found = max_over_ranks(found)
    names = [name for batch in order.values() for name in batch]
    return [name for name, bad in zip(names, found.tolist()) if bad]
