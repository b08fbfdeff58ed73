# SPDX-License-Identifier: Apache-2.0
"""One update of a teacher: the picked units take over the student's values, or move towards them.

:func:`update` is the only place where a teacher's values are written during training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Union

import torch
from torch import Tensor

from se_mm.smoothing.picks import draw, draw_run
from se_mm.smoothing.units import Pair, Units

Pick = Union[bool, Tensor]
"""Whether a pair's tensor is taken over as a whole, or a bool tensor that broadcasts to it."""

Average = Union[None, float, Callable[[Tensor, Tensor], None]]
"""How a picked unit follows: None copies, a float in [0, 1] is the weight of the student's value,
and a function ``(teacher, student)`` averages in place."""


def draw_picks(units: Units, seed: int, step: int, keep_prob: float) -> list[Pick]:
    """The picks of an update, one for each pair of ``units``.

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
            draw_run(first, count, seed, step, keep_prob, pair.teacher.device).view(
                pair.teacher.shape
            )
            for pair, (first, count) in zip(units.pairs, units.spans)
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

    A unit that is copied has the very bits of the student's (converted to the teacher's dtype),
    a unit that is kept has the very bits it had, also where the student's are not finite.

    Args:
        pairs: What is updated.
        picks: One for each pair.
        average: How a picked unit follows.
    """
    if average == 1:  # The weighted form would let a teacher's infinities stay.
        average = None
    elif average == 0:
        return
    batches: dict[tuple[object, ...], list[Pair]] = {}
    for pair, pick in zip(pairs, picks):
        if isinstance(pick, Tensor):
            _update_part(pair, pick, average)
        elif pick:
            batches.setdefault(pair.batch, []).append(pair)
    for batch in batches.values():
        _update_whole(batch, average)


def _update_whole(pairs: list[Pair], average: Average) -> None:
    """Update whole tensors that are alike in device and dtype, in one call where possible."""
    teachers = [pair.teacher for pair in pairs]
    students = [pair.student for pair in pairs]
    if average is None or not teachers[0].is_floating_point():
        torch._foreach_copy_(teachers, students)
        return
    if teachers[0].dtype != students[0].dtype or teachers[0].device != students[0].device:
        students = [student.to(teachers[0]) for student in students]
    if callable(average):
        for teacher, student in zip(teachers, students):
            average(teacher, student)
    else:
        torch._foreach_lerp_(teachers, students, average)


def _update_part(pair: Pair, taken: Tensor, average: Average) -> None:
    """Update those parts of a tensor where ``taken`` is True."""
    teacher = pair.teacher
    new = pair.student.to(teacher)
    if callable(average):
        student, new = new, teacher.clone()
        average(new, student)
    elif average is not None:
        new = teacher.lerp(new, average)
    torch.where(taken, new, teacher, out=teacher)
