# SPDX-License-Identifier: Apache-2.0
"""One update of a teacher: the reference implementation.

::

    for each unit t of the teacher and s of its student:
        if the unit is picked, with probability 1 - keep_prob:
            t = s                     # SE
            t = t + momentum (s - t)  # STS

It works for any device, memory format and average. The backends in
:mod:`~se_mm.smoothing.kernels` write the same values faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Union

import torch
from torch import Tensor

from se_mm.smoothing.picks import draw, mix, signed, stream, threshold
from se_mm.smoothing.settings import Average
from se_mm.smoothing.tensors import grouped
from se_mm.smoothing.units import TensorPair, Units, is_dense

Pick = Union[bool, Tensor]
"""Whether a pair's whole tensor is picked, or a bool tensor that broadcasts to it."""


def draw_picks(units: Units, seed: int, step: int, keep_prob: float) -> list[Pick]:
    """Draw the picks of an update, one for each pair of ``units``.

    Bools for tensor and layer units; bool tensors that broadcast to the teacher's for channel and
    element units, on the teacher's device. ``step`` is at least 0, ``keep_prob`` in [0, 1).
    """
    if keep_prob == 0:
        return [True] * len(units.pairs)
    picks: list[Pick] = []
    channels: dict[tuple[torch.device, int], Tensor] = {}
    for device, (runs, keys) in units.channels.items():
        taken = torch.split(draw(keys, seed, step, keep_prob), list(runs.values()))
        channels.update(((device, first), part) for first, part in zip(runs, taken))
    elements = {
        device: iter(some.draw(seed, step, keep_prob)) for device, some in units.elements.items()
    }
    for pair, first in zip(units.pairs, units.firsts):
        device, shape = pair.teacher.device, pair.teacher.shape
        if units.granularity == 'element':
            picks.append(next(elements[device]).view(shape))
        elif units.granularity == 'channel':
            picks.append(channels[device, first].view((*shape[:1], *[1] * len(shape[1:]))))
        else:
            bits = mix(first + stream(seed, step))
            picks.append(signed(bits) >> 32 >= threshold(keep_prob))
    return picks


@torch.no_grad()
def update(pairs: Sequence[TensorPair], picks: Iterable[Pick], average: Average = None) -> None:
    """Update the picked units of a teacher, and keep the others.

    A copied unit is bit-equal to the student's (converted to the teacher's dtype). A kept unit does
    not change, even if the student's is not finite. An element that equals the student's does not
    change, including the infinities of a mask.

    Args:
        pairs: The tensors.
        picks: A pick for each pair.
        average: How a picked unit is updated.
    """
    if average == 1:  # The formula would keep a teacher's infinities.
        average = None
    elif average == 0:
        return
    copied: list[TensorPair] = []
    for pair, pick in zip(pairs, picks):
        averages = average is not None and pair.teacher.is_floating_point()
        if isinstance(pick, Tensor) or (pick and averages):
            _update(pair, pick, average)
        elif pick and not is_dense(pair.teacher):  # PyTorch 2.1 has no multi-tensor call for it.
            pair.teacher.copy_(pair.student)
        elif pick:
            copied.append(pair)
    for batch in grouped(copied, lambda pair: pair.kind):
        torch._foreach_copy_([p.teacher for p in batch], [p.student for p in batch])


def _update(pair: TensorPair, pick: Pick, average: Average) -> None:
    """Update a tensor where ``pick`` is True."""
    teacher = pair.teacher
    student = new = pair.student.to(teacher)
    if callable(average):
        new = teacher.clone()
        average(new, student)
    elif average is not None:
        # lerp alone would turn equal infinities into NaN.
        new = torch.where(teacher == student, teacher, teacher.lerp(student, average))
    if isinstance(pick, Tensor):
        torch.where(pick, new, teacher, out=teacher)
    else:
        teacher.copy_(new)
