# SPDX-License-Identifier: Apache-2.0
"""Notice that something else moves a teacher, by comparing what was left with what is found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Optional

import torch
from torch import Tensor

from se_mm.smoothing.smoother import TeacherFault
from se_mm.smoothing.units import Pair, local

NUMBERS = 64
"""Numbers of each tensor that are compared."""


class Watch:
    """Remembers some numbers of each of a teacher's parameters after an update.

    A foreign update of a moving average changes nearly all numbers, so a few of each tensor are
    enough, and no second copy of the model is kept.

    Example:
        >>> import torch
        >>> from se_mm.smoothing.guards import Watch
        >>> from se_mm.smoothing.units import Pair
        >>> teacher, student = torch.zeros(3), torch.ones(3)
        >>> watch = Watch()
        >>> watch.leave([Pair('w', teacher, student)])
        >>> watch.moved({'w': Pair('w', teacher.fill_(0.5), student)})
        ("'w' (0.5 of the way to its student)", 1)
    """

    def __init__(self) -> None:
        self._left: dict[str, Tensor] = {}

    @torch.no_grad()
    def leave(self, pairs: Iterable[Pair]) -> None:
        """Remember the teacher as it is now."""
        named = {pair.name: _some(pair.teacher) for pair in pairs}
        self._left = {}
        for names in _alike(named):
            parts = [named[name] for name in names]
            copies = torch.split(torch.cat(parts), [part.numel() for part in parts])
            self._left.update(zip(names, copies))

    @torch.no_grad()
    def moved(self, pairs: Mapping[str, Pair]) -> Optional[tuple[str, int]]:
        """What differs from what was left; the host waits for the device, once if nothing does.

        Args:
            pairs: The teacher's parameters as they are now, by name.

        Returns:
            The tensor that differs most with how far it was moved, and how many differ. None if
            nothing does.
        """
        couples = {}
        for name, left in self._left.items():
            now = _some(pairs[name].teacher) if name in pairs else left
            if now.shape == left.shape:
                couples[name] = now, left
        if _all_same(couples):
            return None
        found: list[tuple[float, str]] = []
        for name, (now, left) in couples.items():
            if _same(now, left.to(now)):
                continue
            student = _some(pairs[name].student).to(now)
            way = (student - left.to(now)).float().norm()
            share = float((now - left.to(now)).float().norm() / way.clamp(min=1e-12))
            found.append((share, name))
        share, name = max(found)
        return f'{name!r} ({share:.2g} of the way to its student)', len(found)

    def check(self, pairs: Mapping[str, Pair], step: int) -> None:
        """Raise an error if something else has moved the teacher.

        Raises:
            TeacherFault: Naming the tensor, and how far it was moved.
        """
        found = self.moved(pairs)
        if found:
            tensor, count = found
            more = f' and {count - 1} others' if count > 1 else ''
            raise TeacherFault(
                f'the teacher must be moved by one thing, but between updates {step} and '
                f'{step + 1} something else changed the teacher of {tensor}{more}: remove the '
                f"other hook or the model's own update, or name it by update_method="
            )


def equal(pairs: Iterable[Pair]) -> bool:
    """Whether the sampled numbers of each teacher are its student's."""
    return _all_same({pair.name: (_some(pair.teacher), _some(pair.student)) for pair in pairs})


def _alike(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of tensors of one device and dtype each."""
    found: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, tensor in tensors.items():
        found.setdefault((tensor.device, tensor.dtype), []).append(name)
    return list(found.values())


def _all_same(couples: Mapping[str, tuple[Tensor, Tensor]]) -> bool:
    """Whether the tensors of each couple are equal, by one comparison for each device and dtype."""
    for names in _alike({name: one for name, (one, _) in couples.items()}):
        ones = torch.cat([couples[name][0] for name in names])
        if not _same(ones, torch.cat([couples[name][1].to(ones) for name in names])):
            return False
    return True


def _some(tensor: Tensor) -> Tensor:
    """The first numbers of a tensor, in the order of its indices."""
    part = local(tensor).detach()
    return part.reshape(-1)[:NUMBERS]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, where NaN equals NaN."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
