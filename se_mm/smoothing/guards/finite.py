# SPDX-License-Identifier: Apache-2.0
"""Find tensors with infinities or NaNs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from se_mm.smoothing.guards.ranks import all_ranks
from se_mm.smoothing.units import local


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]], on_all_ranks: bool = False) -> list[str]:
    """Names of the tensors that are not finite; the host waits for the device once.

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
    parts = {name: local(tensor) for name, tensor in tensors if tensor.is_floating_point()}
    filled = {name: part for name, part in parts.items() if part.numel()}
    ends: list[Tensor] = []
    for part in filled.values():
        if part.dtype == torch.float16 and part.device.type == 'cpu':
            part = part.float()  # PyTorch 2.1 cannot reduce it.
        # A NaN is both the least and the greatest.
        ends += [end.to(ends[0].device if ends else end.device) for end in torch.aminmax(part)]
    finite = torch.stack(ends).isfinite().view(-1, 2).all(1).tolist() if ends else []
    bad = {name for name, each in zip(filled, finite) if not each}
    if on_all_ranks:
        bad = {name for names in all_ranks(sorted(bad)) for name in names}
    return [name for name in parts if name in bad]
