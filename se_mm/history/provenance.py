# SPDX-License-Identifier: Apache-2.0
"""Compute the origin of each unit of a teacher from its history, without weights.

The computation goes backwards from the last update. For each unit it tracks the share r of the
contents whose origin is still unknown, at first 1: if the unit was picked at update s with weight
m, the share ``r m`` comes from the student of update s, and ``r (1 - m)`` from earlier updates.
The expected distribution is the same with the probability of a pick in place of the pick.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import nan, prod
from typing import Union

import numpy as np
import torch
from torch import Tensor

from se_mm.history.segments import Segment
from se_mm.smoothing.picks import INCREMENT, mix_, signed, stream, threshold
from se_mm.smoothing.settings import COPY, Rule, Settings
from se_mm.smoothing.units import TensorPair, Units

SAMPLE = 1024
"""Maximum number of units of a tensor that are tracked, the first ones."""
LEAST = 1e-8
"""A unit is not tracked further back once the unknown share of its contents is below this."""
BEFORE = -1
"""Stands for updates before se_mm updated the teacher."""
_COPIES = Settings(keep_prob=0.0).default  # Rule of an update that copies every unit.


@dataclass(frozen=True)
class TensorHistory:
    """The history of a tensor of the teacher; ``n`` of its units are tracked, the first ones."""

    name: str  # In the student's model.
    shape: tuple[int, ...]
    units: int  # Number of its units, at the finest granularity that it ever had.
    keys: Tensor  # (n,) int64: equal for parts of one unit in several tensors, as in a layer.
    taken: Tensor  # (n,) int64: the update at which each unit was last picked, or BEFORE.
    age: Tensor  # (n,) float64: mean age of its contents, in updates; NaN without a momentum.


@dataclass(frozen=True)
class Expectation:
    """Expected distributions over the picks, geometric if keep_prob is constant.

    Contents from before se_mm are not included.
    """

    taken: Tensor  # (updates,) float64: probability that a unit was last picked at each update.
    share: Tensor  # (updates,) float64: share of the contents; momentum (1 - keep_prob) * momentum.

    @property
    def mean_age(self) -> float:
        """Mean age of the contents, in updates."""
        ages = torch.arange(len(self.share)).flip(0).double()
        return float(self.share @ ages / self.share.sum())


@dataclass(frozen=True)
class Provenance:
    """The origin of a teacher's contents after ``updates`` updates."""

    updates: int
    tensors: tuple[TensorHistory, ...]
    share: Tensor  # (updates,) float64: share of the contents from the student of each update.
    before: float  # Share from before se_mm updated the teacher; with the others it sums to 1.
    expected: Expectation

    @property
    def taken(self) -> Tensor:
        """The update at which each unit was last picked; units across tensors are listed once."""
        keys = torch.cat([tensor.keys for tensor in self.tensors])
        _, first = np.unique(keys.numpy(), return_index=True)
        return torch.cat([tensor.taken for tensor in self.tensors])[first]

    @property
    def mean_age(self) -> float:
        """Mean age of the teacher's numbers, in updates; NaN for an average without a momentum."""
        ages = [float(tensor.age.mean()) for tensor in self.tensors]
        return float(np.average(ages, weights=[prod(tensor.shape) for tensor in self.tensors]))

    @property
    def oldest(self) -> int:
        """Number of updates since the oldest unit was picked."""
        return self.updates - 1 - int(self.taken.clamp(min=0).min())


def effective_size(share: Tensor, before: float = 0.0) -> float:
    """Compute the effective number of shares that sum to 1, the inverse Simpson index.

    It is ``(2 - m) / m`` for an average of momentum m, and ``(1 + keep_prob) / (1 - keep_prob)``
    for an SE teacher with many units. ``before`` is one more share.
    """
    return 1 / (float((share**2).sum()) + before**2)


@torch.no_grad()
def provenance(segments: Sequence[Segment], updates: int, sample: int = SAMPLE) -> Provenance:
    """Compute the origin of each unit of a teacher.

    Args:
        segments: The history, oldest first; the last segment is known.
        updates: Updates made, at least 1.
        sample: See :data:`SAMPLE`.
    """
    shapes = segments[-1].shapes
    timeline = cache(partial(_timeline, segments, updates))
    rules = {name: tuple(segment.rule_of(name) for segment in segments) for name in shapes}
    timelines = {name: timeline(rules[name]) for name in shapes}
    order = ('layer', 'tensor', 'channel', 'element')
    finest = {
        name: max((r.granularity for r in rules[name] if isinstance(r, Rule)), key=order.index)
        for name in shapes
    }
    firsts = {name: _first_unit(name, shape, finest[name]) for name, shape in shapes.items()}
    share = torch.zeros(updates + 1, dtype=torch.float64)  # The last entry is BEFORE.
    ages = (updates - 1 - torch.arange(updates + 1)).double()
    origin = 0
    if not segments[0].known:
        origin, ages[BEFORE] = BEFORE, updates - segments[1].begin
    tensors = []
    for name, shape in shapes.items():
        _, size = firsts[name]
        places = torch.arange(min(prod(shape) // size, sample)) * size
        part_of_teacher = prod(shape) / sum(map(prod, shapes.values())) / len(places)
        rest = torch.ones(len(places), dtype=torch.float64)
        taken, age = torch.full_like(places, BEFORE), torch.zeros_like(rest)
        for some in timelines[name]:
            active = (~(rest <= LEAST)).nonzero()[:, 0]  # NaN stays.
            if not len(active):
                break
            picks = some.picks(*_keys(name, shape, some.granularity, places[active]))
            replaced = picks * some.weights
            if some.weights.isnan().any():
                replaced.masked_fill_(~picks, 0)
            parts, rest[active] = _divide(rest[active], replaced)
            share[some.steps] += parts.sum(0) * part_of_teacher
            age[active] += parts @ ages[some.steps]
            new = taken[active] == BEFORE
            taken[active[new]] = torch.where(parts[new] != 0, some.steps, BEFORE).amax(1)
        share[origin] += rest.sum() * part_of_teacher
        age += rest * ages[origin]
        keys, low = _keys(name, shape, finest[name], places)
        units = prod(shape) // size
        tensors.append(TensorHistory(name, shape, units, keys * 2 + low, taken, age))
    expected = _expectation(shapes, timelines, firsts, updates)
    return Provenance(updates, tuple(tensors), share[:updates], float(share[BEFORE]), expected)


def _expectation(
    shapes: Mapping[str, tuple[int, ...]],
    timelines: Mapping[str, Sequence[_Updates]],
    firsts: Mapping[str, tuple[int, int]],
    updates: int,
) -> Expectation:
    """Compute the expected distributions of the tensors in ``shapes``.

    ``timelines`` are those of :func:`_timeline`, ``firsts`` those of :func:`_first_unit`.
    """
    tensors = Counter(key for key, _ in firsts.values())  # How many share their units.
    numbers = torch.tensor([prod(shape) for shape in shapes.values()]).double()
    units = numbers / torch.tensor([size * tensors[key] for key, size in firsts.values()])
    found = torch.zeros(2, updates, dtype=torch.float64)
    for name, *rest in zip(shapes, units / units.sum(), numbers / numbers.sum()):
        left = torch.stack(rest)
        for some in timelines[name]:
            # A pick counts for the unit as such, and replaces a part of its contents.
            taken = torch.stack([(some.weights != 0).double(), some.weights])
            parts, left = _divide(left, (1 - some.keep_probs) * taken)
            found[:, some.steps] += parts
    return Expectation(*found)


def share_taken(segment: Segment, steps: Sequence[int], sample: int = 128) -> float:
    """Return the mean share of units that the updates at ``steps`` of a segment picked.

    Up to ``sample`` units of each tensor are looked at. Each step is at least 1.
    """
    picked = {}
    for rule, shapes in segment.rules:
        some = _Updates(segment, rule, steps)
        for name, shape in shapes.items():
            key, size = _first_unit(name, shape, rule.granularity)
            places = torch.arange(min(prod(shape) // size, sample)) * size
            # Units of several tensors count once.
            picks = some.picks(*_keys(name, shape, rule.granularity, places))
            picked[rule, key] = picks.sum(1).double()
    return float(torch.cat(list(picked.values())).mean()) / len(steps)


class _Updates:
    """Those of some steps at which a rule smoothed, newest first: tensors of shape ``(S,)``."""

    def __init__(self, segment: Segment, rule: Rule, steps: Iterable[int]) -> None:
        steps = [s for s in steps if s % segment.interval == 0 and s not in segment.skipped]
        keep_probs = [rule.keep_prob(step, segment.total) for step in steps]
        known = rule.momentum is not None
        averages = [rule.average(step, segment.total) if known else nan for step in steps]
        weights = [1.0 if average is None else average for average in averages]
        streams = [signed(stream(segment.seed, step)) for step in steps]
        least = [threshold(keep_prob) for keep_prob in keep_probs]
        self.granularity = rule.granularity
        # Probability of being kept; weight of the new value otherwise, NaN if unknown.
        self.keep_probs, self.weights = torch.tensor([keep_probs, weights], dtype=torch.float64)
        self.steps, self._streams, self._least = torch.tensor([steps, streams, least]).long()

    def picks(self, keys: Tensor, low: Tensor) -> Tensor:
        """Return which units were picked at which update: ``(n, S)`` bool."""
        bits = mix_(keys[:, None] + self._streams)
        # Two neighbouring elements share a hash, each with its half; other units use the upper one.
        bits[low] <<= 32
        return bits >> 32 >= self._least


def _timeline(
    segments: Sequence[Segment], updates: int, rules: Sequence[Union[Rule, str, None]]
) -> list[_Updates]:
    """Return the updates of a tensor, newest first, by its rule in each segment."""
    found = []
    ends = [*(segment.begin for segment in segments[1:]), updates]
    for segment, rule, end in reversed(list(zip(segments, rules, ends))):
        begin = max(segment.begin, 1)
        if isinstance(rule, Rule):
            steps = range(begin, end)[::-1]
            found += [
                _Updates(segment, rule, steps[i : i + 256]) for i in range(0, len(steps), 256)
            ]
        elif rule == COPY and end > begin:
            found.append(_Updates(Segment(0), _COPIES, [end - 1]))
        if segment.copied or (segment.known and segment.begin == 0):
            found.append(_Updates(Segment(0), _COPIES, [begin - 1]))
    return [some for some in found if len(some.steps)]


def _divide(rest: Tensor, replaced: Tensor) -> tuple[Tensor, Tensor]:
    """Divide unknown shares ``(n,)`` of contents among updates, newest first.

    ``replaced`` is the part of a share that each update replaced, ``(n, S)``. Returns the share
    from each update, ``(n, S)``, and what is left, ``(n,)``.
    """
    left = torch.cat([rest[:, None], 1 - replaced], 1).cumprod(1)
    return left[:, :-1] - left[:, 1:], left[:, -1]


def _first_unit(name: str, shape: Sequence[int], granularity: str) -> tuple[int, int]:
    """Return the key of a tensor's first unit, and how many numbers a unit has."""
    tensor = torch.empty(shape, device='meta')
    units = Units([TensorPair(name, tensor, tensor)], granularity)
    return signed(units.firsts[0]), units.sizes[0]


def _keys(name: str, shape: Sequence[int], granularity: str, places: Tensor) -> list[Tensor]:
    """Return the keys of the units at flat indices, and whether each uses its hash's lower half."""
    first, size = _first_unit(name, shape, granularity)
    halves = 2 if granularity == 'element' else 1
    keys = places // (size * halves) * signed(INCREMENT) + first
    return [keys, places % halves < halves - 1]
