# SPDX-License-Identifier: Apache-2.0
"""Which tensors hold something that is not finite, found with a single look at the device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from se_mm.smoothing.ranks import max_over_ranks
from se_mm.smoothing.units import local


class FiniteCheck:
    """Finds infinities and NaNs in some tensors.

    Example:
        >>> import torch
        >>> from se_mm.smoothing.finite import FiniteCheck
        >>> weight = torch.ones(3)
        >>> check = FiniteCheck([('weight', weight)])
        >>> check.not_finite()
        []
        >>> _ = weight[1].fill_(float('inf'))
        >>> check.not_finite()
        ['weight']

    Args:
        tensors: Named tensors, of which those of a floating dtype are looked at. Of a sharded one,
            a rank looks at its shard.

    Attributes:
        names: Of the tensors that are looked at.
    """

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self._tensors = [(name, t) for name, t in tensors if t.is_floating_point() and t.numel()]

    @property
    def names(self) -> list[str]:
        """See the class."""
        return [name for name, _ in self._tensors]

    def without(self, names: Iterable[str]) -> FiniteCheck:
        """The same check that leaves some tensors out."""
        left_out = set(names)
        return FiniteCheck((name, t) for name, t in self._tensors if name not in left_out)

    @torch.no_grad()
    def not_finite(self, on_all_ranks: bool = False) -> list[str]:
        """Names of the tensors that are not finite; the host waits for the device once.

        Args:
            on_all_ranks: Whether a tensor counts that is not finite on any rank, so that all of
                them decide alike. Then all must call this.
        """
        ends: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        order: dict[tuple[torch.device, torch.dtype], list[str]] = {}
        for name, tensor in self._tensors:
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
