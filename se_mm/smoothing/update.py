# SPDX-License-Identifier: Apache-2.0
"""One update of a teacher: the picked units take over the student's values, or move towards them.

This is the method as it is written down, for any device, layout and average. The other backends in
:mod:`~se_mm.smoothing.kernels` write the same values faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Union

import torch
from torch import Tensor

from se_mm.smoothing.picks import at_a_time, draw, draw_elements
from se_mm.smoothing.settings import Average
from se_mm.smoothing.units import Pair, Units

Pick = Union[bool, Tensor]
"""Whether a pair's tensor is taken over as a whole, or a bool tensor that broadcasts to it."""


def draw_picks(units: Units, seed: int, step: int, keep_prob: float) -> list[Pick]:
    """Draw the picks of an update, one for each pair of ``units``.

    Args:
        units: What may be picked.
        seed: Seed of the picks.
        step: The update step, at least 0.
        keep_prob: Probability in [0, 1) that a unit is kept.

    Returns:
        Bools for tensor and layer units; bool tensors that broadcast to the teacher's for channel
        and element units, on the teacher's device.
    """
    if keep_prob == 0:
        return [True] * len(units.pairs)
    if units.granularity == 'element':
        return [
            draw_elements(
                first, pair.teacher.numel(), seed, step, keep_prob, pair.teacher.device
            ).view(pair.teacher.shape)
            for pair, first in zip(units.pairs, units.firsts)
        ]
    taken = {device: draw(keys, seed, step, keep_prob) for device, keys in units.keys.items()}
    if units.granularity == 'channel':
        return [
            taken[units.device(pair)][first:end].view(-1, *[1] * (pair.teacher.dim() - 1))
            if pair.teacher.dim()
            else taken[units.device(pair)][first]
            for pair, (first, end) in zip(units.pairs, units.spans)
        ]
    whole = {device: picks.tolist() for device, picks in taken.items()}
    return [whole[units.device(pair)][first] for pair, (first, _) in zip(units.pairs, units.spans)]


@torch.no_grad()
def update(pairs: Sequence[Pair], picks: Iterable[Pick], average: Average = None) -> None:
    """Let the picked units of a teacher follow its student, and leave the others as they are.

    A unit that is copied gets the very bits of the student's (converted to the teacher's dtype). A
    unit that is kept has the very bits it had, also where the student's are not finite. A number
    that equals the student's stays, infinities of a mask included.

    Args:
        pairs: What is updated.
        picks: One for each pair.
        average: How a picked unit follows.
    """
    if average == 1:  # The formula would keep a teacher's infinities.
        average = None
    elif average == 0:
        return
    whole: list[Pair] = []
    for pair, pick in zip(pairs, picks):
        if isinstance(pick, Tensor):
            _update_part(pair, pick, average)
        elif pick:
            whole.append(pair)
    for batch in batches(whole):
        _update_whole(batch, average)


def batches(pairs: Iterable[Pair]) -> list[list[Pair]]:
    """Divide pairs into lists that can go through one multi-tensor call."""
    found: dict[tuple[object, ...], list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair.batch, []).append(pair)
    return list(found.values())


def averaged(teacher: Tensor, student: Tensor, weight: float) -> Tensor:
    """The average of two tensors of one dtype and device, a new tensor.

    Equal infinities stay what they are, where ``lerp`` alone makes NaN of them.
    """
    return torch.where(teacher == student, teacher, teacher.lerp(student, weight))


def _update_whole(pairs: list[Pair], average: Average) -> None:
    """Update whole tensors that are alike in device and dtype."""
    if average is None or not pairs[0].teacher.is_floating_point():
        torch._foreach_copy_([p.teacher for p in pairs], [p.student for p in pairs])
        return
    for pair in pairs:
        if callable(average):
            average(pair.teacher, pair.student.to(pair.teacher))
            continue
        for old, new in zip(_some_rows(pair.teacher), _some_rows(pair.student)):
            old.copy_(averaged(old, new.to(old), average))


def _some_rows(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor in pieces of a few rows."""
    if not tensor.dim():
        yield tensor
        return
    rows = max(1, at_a_time(tensor.device) * len(tensor) // max(1, tensor.numel()))
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows]


def _update_part(pair: Pair, taken: Tensor, average: Average) -> None:
    """Update those parts of a tensor where ``taken`` is True."""
    teacher = pair.teacher
    new = pair.student.to(teacher)
    if callable(average):
        student, new = new, teacher.clone()
        average(new, student)
    elif average is not None:
        new = averaged(teacher, new, average)
    torch.where(taken, new, teacher, out=teacher)
