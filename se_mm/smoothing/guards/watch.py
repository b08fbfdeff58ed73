# SPDX-License-Identifier: Apache-2.0
"""Notice that something else updates a teacher, by comparing it with its last state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Optional

import torch
from torch import Tensor

from se_mm.smoothing.smoother import TeacherFault
from se_mm.smoothing.units import TensorPair, local

NUMBERS = 64
"""Elements of each tensor to compare."""


class Watch:
    """Remembers some elements of each of a teacher's parameters after an update.

    A moving average changes nearly all elements, so a few of each tensor are enough.

    Example:
        >>> import torch
        >>> from se_mm.smoothing.guards import Watch
        >>> from se_mm.smoothing.units import TensorPair
        >>> teacher, student = torch.zeros(3), torch.ones(3)
        >>> watch = Watch()
        >>> watch.leave([TensorPair('w', teacher, student)])
        >>> watch.changed({'w': TensorPair('w', teacher.fill_(0.5), student)})
        ("'w' (0.5 of the way to its student)", 1)
    """

    def __init__(self) -> None:
        self._left: dict[str, Tensor] = {}

    @torch.no_grad()
    def leave(self, pairs: Iterable[TensorPair]) -> None:
        """Remember the teacher's present state."""
        self._left = {pair.name: _some(pair.teacher).clone() for pair in pairs}

    @torch.no_grad()
    def changed(self, pairs: Mapping[str, TensorPair]) -> Optional[tuple[str, int]]:
        """The tensor that has changed most, in words, and how many have changed; None if none has.

        The host waits for the device, once if nothing has changed.
        """
        known = {name: pair for name, pair in pairs.items() if name in self._left}
        names = _unequal({n: (_some(pair.teacher), self._left[n]) for n, pair in known.items()})
        shares: dict[str, float] = {}
        for name in names:
            now, student = (_some(t).float() for t in (pairs[name].teacher, pairs[name].student))
            left = self._left[name].to(now)
            way = (student.to(now) - left).norm().clamp(min=1e-12)
            shares[name] = float((now - left).norm() / way)
        if not shares:
            return None
        name = max(shares, key=lambda name: shares[name])
        return f'{name!r} ({shares[name]:.2g} of the way to its student)', len(shares)

    def check(self, pairs: Mapping[str, TensorPair], step: int) -> None:
        """Raise TeacherFault if something else has changed the teacher."""
        found = self.changed(pairs)
        if found:
            tensor, count = found
            more = f' and {count - 1} others' if count > 1 else ''
            raise TeacherFault(
                f'only one hook may update the teacher, but between updates {step} and '
                f'{step + 1} something else changed the teacher of {tensor}{more}: remove the '
                f"other hook or the model's own update, or set update_method to its name"
            )


@torch.no_grad()
def equal(pairs: Iterable[TensorPair]) -> bool:
    """Whether the compared elements of each teacher equal its student's."""
    return not _unequal({p.name: (_some(p.teacher), _some(p.student)) for p in pairs})


def _some(tensor: Tensor) -> Tensor:
    """The first elements of a tensor."""
    return local(tensor).detach().reshape(-1)[:NUMBERS]


def _unequal(couples: Mapping[str, tuple[Tensor, Tensor]]) -> list[str]:
    """Names of the couples of equal length that differ, where NaN equals NaN."""
    differ: dict[str, Tensor] = {}
    for name, (one, other) in couples.items():
        if one.shape == other.shape:
            other = other.to(one)
            differ[name] = ((one != other) & ~(one.isnan() & other.isnan())).any()
    if not differ:
        return []
    device = next(iter(differ.values())).device
    flags = torch.stack([flag.to(device) for flag in differ.values()]).tolist()
    return [name for name, flag in zip(differ, flags) if flag]
