# SPDX-License-Identifier: Apache-2.0
"""One update of a teacher, the method as it is written down.

::

    for each unit t of the teacher and s of its student:
        if the unit is picked, with probability 1 - keep_prob:
            t = s                     # SE
            t = t + momentum (s - t)  # STS

It serves any device, layout and average. The backends in :mod:`~se_mm.smoothing.kernels` write the
same values faster. Read on in ``SpatialEnsemble.update``, ``Smoother.update`` and the kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Union

import torch
from torch import Tensor

from se_mm.smoothing.picks import draw, draw_elements, mix, signed, stream, threshold
from se_mm.smoothing.settings import Average
from se_mm.smoothing.tensors import grouped
from se_mm.smoothing.units import TensorPair, Units

Pick = Union[bool, Tensor]
"""Whether a pair's tensor is taken over as a whole, or a bool tensor that broadcasts to it."""


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
    for pair, first in zip(units.pairs, units.firsts):
        device, shape = pair.teacher.device, pair.teacher.shape
        if units.granularity == 'element':
            elements = draw_elements(first, shape.numel(), seed, step, keep_prob, device)
            picks.append(elements.view(shape))
        elif units.granularity == 'channel':
            picks.append(channels[device, first].view((*shape[:1], *[1] * len(shape[1:]))))
        else:
            bits = mix(first + stream(seed, step))
            picks.append(signed(bits) >> 32 >= threshold(keep_prob))
    return picks


@torch.no_grad()
def update(pairs: Sequence[TensorPair], picks: Iterable[Pick], average: Average = None) -> None:
    """Let the picked units of a teacher follow its student, and leave the others as they are.

    A unit that is copied gets the very bits of the student's (converted to the teacher's dtype). A
    unit that is kept has the very bits it had, also where the student's are not finite. A number
    that equals the student's stays, infinities of a mask included. ``picks`` has one for each pair,
    and ``average`` is how a picked unit follows.
    """
    if average == 1:  # The formula would keep a teacher's infinities.
        average = None
    elif average == 0:
        return
    copied: list[TensorPair] = []
    for pair, pick in zip(pairs, picks):
        averages = average is not None and pair.teacher.is_floating_point()
        if isinstance(pick, Tensor) or (pick and averages):
            _move(pair, pick, average)
        elif pick:
            copied.append(pair)
    for batch in grouped(copied, lambda pair: pair.kind):
        torch._foreach_copy_([p.teacher for p in batch], [p.student for p in batch])


def _move(pair: TensorPair, pick: Pick, average: Average) -> None:
    """Update those parts of a tensor where ``pick`` is True."""
    teacher = pair.teacher
    student = new = pair.student.to(teacher)
    if callable(average):
        new = teacher.clone()
        average(new, student)
    elif average is not None:
        # Equal infinities stay what they are, where lerp alone makes NaN of them.
        new = torch.where(teacher == student, teacher, teacher.lerp(student, average))
    if isinstance(pick, Tensor):
        torch.where(pick, new, teacher, out=teacher)
    else:
        teacher.copy_(new)
