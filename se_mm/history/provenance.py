# SPDX-License-Identifier: Apache-2.0
"""Compute the origin of each unit of a teacher from its history, without weights.

The computation goes backwards from the last update. For each unit it tracks the share r of the
contents whose origin is still unknown, at first 1: if the unit was picked at update s with weight
m, the share ``r m`` comes from the student of update s, and ``r (1 - m)`` from earlier updates.
This is exact for copies (m = 1), and otherwise up to a remainder below :data:`LEAST`, which is
assigned to the first update. Only names and shapes of tensors are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Union

import torch
from torch import Tensor

from se_mm.history.segments import Segment, SmoothedTensors
from se_mm.smoothing.picks import INCREMENT, mix_, signed, stream, threshold, unit_key
from se_mm.smoothing.settings import Rule

SAMPLE = 1024
"""Maximum number of units of a tensor that are tracked, the first ones."""
LEAST = 1e-8
"""A unit is not tracked further back once the unknown share of its contents is below this."""
BEFORE = -1
"""Stands for updates before se_mm took over."""

# Number of picks drawn at a time: units times updates.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class TensorHistory:
    """The history of a tensor of the teacher.

    Attributes:
        name: Its name in the student's model.
        shape: Its shape.
        units: Number of its units, at the finest granularity that it ever had; the first
            ``len(taken)`` of them are tracked.
        keys: ``(n,)`` int64: equal for parts of one unit in several tensors, as in a layer.
        taken: ``(n,)`` int64: the update at which each unit was last picked; :data:`BEFORE` if that
            was before se_mm took over.
        age: ``(n,)`` float64: mean age of each unit's contents, in updates since they were the
            student's, in [0, updates). NaN for an average without a momentum.
    """

    name: str
    shape: tuple[int, ...]
    units: int
    keys: Tensor
    taken: Tensor
    age: Tensor


@dataclass(frozen=True)
class Provenance:
    """The origin of a teacher's contents.

    Attributes:
        updates: Updates made, at least 1.
        tensors: The history of each smoothed tensor.
        share: ``(updates,)`` float64: share of the teacher's smoothed numbers that comes from the
            student of each update. Together with :attr:`before` they sum to 1. NaN for an average
            without a momentum.
        before: Share from before se_mm took over.
    """

    updates: int
    tensors: tuple[TensorHistory, ...]
    share: Tensor
    before: float

    @property
    def taken(self) -> Tensor:
        """The update at which each unit was last picked; units across tensors are listed once."""
        keys = torch.cat([tensor.keys for tensor in self.tensors])
        taken = torch.cat([tensor.taken for tensor in self.tensors])
        _, inverse = torch.unique(keys, return_inverse=True)
        first = torch.full((int(inverse.max()) + 1,), len(keys)).scatter_reduce(
            0, inverse, torch.arange(len(keys)), 'amin'
        )
        return taken[first]

    @property
    def sampled(self) -> bool:
        """Whether some units were not tracked."""
        return any(tensor.units > len(tensor.taken) for tensor in self.tensors)

    @property
    def mean_age(self) -> float:
        """Mean age of the teacher's numbers, in updates."""
        numbers = torch.tensor([prod(tensor.shape) for tensor in self.tensors], dtype=torch.float64)
        ages = torch.stack([tensor.age.mean() for tensor in self.tensors])
        return float((ages * numbers).sum() / numbers.sum())

    @property
    def oldest(self) -> int:
        """Number of updates since the oldest unit was picked."""
        return self.updates - 1 - int(self.taken.clamp(min=0).min())

    @property
    def effective_size(self) -> float:
        """Effective number of updates that the contents come from: the inverse Simpson index."""
        return effective_size(self.share, self.before)


def effective_size(share: Tensor, before: float = 0.0) -> float:
    """Compute the effective number of shares, the inverse Simpson index.

    It is ``(2 - m) / m`` for an average of momentum m, and ``(1 + keep_prob) / (1 - keep_prob)``
    for an SE teacher with many units.

    Args:
        share: Shares of any shape, which sum to 1 together with ``before``.
        before: One more share.
    """
    return 1 / (float((share**2).sum()) + before**2)


@dataclass
class _Probes:
    """One element of each tracked unit, concatenated over all tensors.

    Attributes:
        spans: Name -> begin and end of the tensor's probes.
        shapes: Name -> shape.
        places: ``(n,)`` int64: flat index of each probe in its tensor.
        numbers: ``(n,)`` float64: number of the teacher's elements that each probe represents.
    """

    spans: dict[str, tuple[int, int]]
    shapes: dict[str, tuple[int, ...]]
    places: Tensor
    numbers: Tensor


@dataclass
class _Tally:
    """State of the backward computation for each probe.

    Attributes:
        rest: Share of its contents with unknown origin.
        taken: The update at which it was last picked.
        found: Whether ``taken`` is known.
        age: Sum of share times age over the known part of its contents.
        numbers: Share of the teacher that it represents.
        share: ``(updates + 1,)``: share of the teacher from each update; the last entry is
            :data:`BEFORE`.
    """

    rest: Tensor
    taken: Tensor
    found: Tensor
    age: Tensor
    numbers: Tensor
    share: Tensor

    def some(self, index: Tensor) -> _Tally:
        """Copy the state of some probes; ``share`` is not copied."""
        return _Tally(
            self.rest[index],
            self.taken[index],
            self.found[index],
            self.age[index],
            self.numbers[index],
            self.share,
        )

    def put(self, index: Tensor, some: _Tally) -> None:
        """Write back the state of some probes."""
        self.rest[index], self.taken[index] = some.rest, some.taken
        self.found[index], self.age[index] = some.found, some.age

    def give(self, picks: Tensor, weight: float, step: int, of: int) -> None:
        """Assign a part of the picked probes' unknown contents to an update.

        Args:
            picks: ``(n,)`` bool.
            weight: The part, as a share of ``rest``.
            step: The update, for ages.
            of: The update for shares: ``step`` or :data:`BEFORE`.
        """
        part = self.rest * picks * weight
        self.age += part * (len(self.share) - 2 - step)
        self.share[of] += part @ self.numbers
        self.rest -= part
        self.taken = torch.where(picks & ~self.found, of, self.taken)
        self.found |= picks


@torch.no_grad()
def provenance(segments: Sequence[Segment], updates: int, sample: int = SAMPLE) -> Provenance:
    """Compute the origin of each unit of a teacher.

    Args:
        segments: The history, oldest first; the last segment is known.
        updates: Updates made, at least 1.
        sample: See :data:`SAMPLE`.
    """
    granularity = {name: _finest(segments, name) for name in _names(segments)}
    probes = _probes(segments[-1], granularity, sample)
    count = len(probes.places)
    tally = _Tally(
        rest=torch.ones(count, dtype=torch.float64),
        taken=torch.full((count,), BEFORE),
        found=torch.zeros(count, dtype=torch.bool),
        age=torch.zeros(count, dtype=torch.float64),
        numbers=probes.numbers / probes.numbers.sum(),
        share=torch.zeros(updates + 1, dtype=torch.float64),
    )
    every = torch.ones(count, dtype=torch.bool)
    ends = [*(segment.begin for segment in segments[1:]), updates]
    for segment, end in zip(reversed(segments), reversed(ends)):
        if not segment.known:
            tally.give(every, 1.0, end - 1, BEFORE)
            continue
        followed = torch.zeros(count, dtype=torch.bool)
        for name in segment.followed & probes.spans.keys():
            followed[slice(*probes.spans[name])] = True
        if followed.any():
            tally.give(followed, 1.0, end - 1, end - 1)
        for group in segment.rules:
            names = [name for name in group.shapes if name in probes.spans]
            if names:
                index = torch.cat([torch.arange(*probes.spans[name]) for name in names])
                _walk(segment, group.rule, end, tally, index, *_keys(probes, names, group.rule))
        if segment.begin == 0 or segment.copied:
            step = max(segment.begin - 1, 0)
            tally.give(every, 1.0, step, step)
    tensors = []
    for name, (begin, stop) in probes.spans.items():
        keys, low = _keys(probes, [name], granularity[name])
        tensors.append(
            TensorHistory(
                name,
                probes.shapes[name],
                _count(probes.shapes[name], granularity[name]),
                keys * 2 + low,
                tally.taken[begin:stop],
                tally.age[begin:stop],
            )
        )
    return Provenance(updates, tuple(tensors), tally.share[:updates], float(tally.share[BEFORE]))


def _walk(
    segment: Segment, rule: Rule, end: int, tally: _Tally, index: Tensor, keys: Tensor, low: Tensor
) -> None:
    """Go back through the updates of one rule in a segment."""
    steps = [step for step in range(max(segment.begin, 1), end) if segment.moves(step)]
    while steps:
        active = tally.rest[index] > LEAST
        if not active.any():
            return
        index, keys, low = index[active], keys[active], low[active]
        some = tally.some(index)
        # In blocks, so that finished probes can be dropped in between.
        stop = max(0, len(steps) - 256)
        steps, now = steps[:stop], steps[stop:]
        many = max(1, _BLOCK // len(index))
        for first in range(len(now), 0, -many):
            block = now[max(0, first - many) : first]
            picks = _picks(segment, rule, block, keys, low)
            for step, taken in zip(reversed(block), picks.flip(0)):
                weight = _weight(rule, step, segment.total)
                if weight != 0:
                    some.give(taken, weight, step, step)
        tally.put(index, some)


def _weight(rule: Rule, step: int, total: int) -> float:
    """Return the weight of the new value in a picked unit; NaN if it is unknown."""
    if rule.momentum is None:
        return float('nan')
    average = rule.average(step, total)
    assert not callable(average)
    return 1.0 if average is None else average


def _picks(segment: Segment, rule: Rule, steps: Sequence[int], keys: Tensor, low: Tensor) -> Tensor:
    """Return which units were picked at which update: ``(steps, n)`` bool."""
    streams = torch.tensor([signed(stream(segment.seed, step)) for step in steps])
    bits = mix_(keys[None, :] + streams[:, None])
    # Two neighbouring elements share a hash, each with its half; other units use the upper half.
    drawn = (torch.where(low, bits << 32, bits) if low.any() else bits) >> 32
    least = [threshold(rule.keep_prob(step, segment.total)) for step in steps]
    taken = drawn >= torch.tensor(least)[:, None]
    # All units are picked if keep_prob is 0.
    always = [rule.keep_prob(step, segment.total) == 0 for step in steps]
    return taken | torch.tensor(always)[:, None]


def _names(segments: Sequence[Segment]) -> list[str]:
    """Return the names of the tensors that the last segment smooths."""
    return [name for group in segments[-1].rules for name in group.shapes]


def _finest(segments: Sequence[Segment], name: str) -> str:
    """Return the finest granularity that a tensor had."""
    order = ('layer', 'tensor', 'channel', 'element')
    rules = [segment.smoothing(name) for segment in segments]
    return max((rule.granularity for rule in rules if rule), key=order.index)


def _count(shape: tuple[int, ...], granularity: str) -> int:
    """Count the units of a tensor, including those shared with other tensors."""
    if granularity == 'element':
        return prod(shape)
    return shape[0] if granularity == 'channel' and shape else 1


def _probes(last: Segment, granularity: dict[str, str], sample: int) -> _Probes:
    spans, shapes, places, numbers = {}, {}, [], []
    begin = 0
    for group in last.rules:
        for name, shape in group.shapes.items():
            units = _count(shape, granularity[name])
            followed = min(units, sample)
            size = prod(shape) // units
            places.append(torch.arange(followed) * size)
            numbers.append(torch.full((followed,), prod(shape) / followed, dtype=torch.float64))
            spans[name] = (begin, begin + followed)
            shapes[name] = shape
            begin += followed
    return _Probes(spans, shapes, torch.cat(places), torch.cat(numbers))


def _keys(
    probes: _Probes, names: Sequence[str], granularity: Union[str, Rule]
) -> tuple[Tensor, Tensor]:
    """Return the keys of the units of tensors, and whether each uses the lower half of its hash."""
    if isinstance(granularity, Rule):
        granularity = granularity.granularity
    keys, low = [], []
    for name in names:
        places = probes.places[slice(*probes.spans[name])]
        shape = probes.shapes[name]
        owner = name.rpartition('.')[0]
        half = torch.zeros(len(places), dtype=torch.bool)
        if granularity == 'element':
            run, index, half = name, places // 2, places % 2 == 0
        elif granularity == 'channel':
            channels = shape[0] if shape else 1
            run, index = f'{owner}[{channels}]', places // (prod(shape) // channels)
        else:
            run, index = (name if granularity == 'tensor' else owner), torch.zeros_like(places)
        keys.append(index * signed(INCREMENT) + signed(unit_key(run)))
        low.append(half)
    return torch.cat(keys), torch.cat(low)


@dataclass(frozen=True)
class Law:
    """Expected distribution of a provenance over the picks.

    Attributes:
        taken: ``(updates,)`` float64: probability that a unit was last picked at each update.
        share: ``(updates,)`` float64: expected share of the contents from each update, as for an
            average of momentum ``(1 - keep_prob) * momentum``. NaN for an average without a
            momentum.
    """

    taken: Tensor
    share: Tensor

    @property
    def mean_age(self) -> float:
        """Mean age of the contents, in updates."""
        ages = torch.arange(len(self.share) - 1, -1, -1, dtype=torch.float64)
        return float((self.share * ages).sum() / self.share.sum())


def law(segments: Sequence[Segment], updates: int) -> Law:
    """Compute the expected distribution of a provenance: geometric if keep_prob is constant.

    Contents from before se_mm took over are not included.

    Args:
        segments: The history, oldest first; the last segment is known.
        updates: Updates made, at least 1.
    """
    taken = torch.zeros(updates, dtype=torch.float64)
    share = torch.zeros(updates, dtype=torch.float64)
    granularity = {name: _finest(segments, name) for name in _names(segments)}
    units = _runs(segments[-1].rules, granularity)
    numbers = {name: prod(shape) for g in segments[-1].rules for name, shape in g.shapes.items()}
    ends = [*(segment.begin for segment in segments[1:]), updates]
    alike: dict[tuple[object, ...], list[str]] = {}
    for name in granularity:
        way = tuple((s.smoothing(name), name in s.followed) for s in segments)
        alike.setdefault(tuple(map(repr, way)), []).append(name)
    for names in alike.values():
        of_units = sum(units[name] for name in names) / sum(units.values())
        of_numbers = sum(numbers[name] for name in names) / sum(numbers.values())
        kept, rest = 1.0, 1.0
        for segment, end in zip(reversed(segments), reversed(ends)):
            rule = segment.smoothing(names[0])
            if not segment.known:
                break
            if names[0] in segment.followed:
                taken[end - 1] += of_units * kept
                share[end - 1] += of_numbers * rest
                kept = rest = 0.0
            for step in range(end - 1, max(segment.begin, 1) - 1, -1) if rule else ():
                if rest < LEAST * 1e-3 and kept < LEAST * 1e-3:
                    break
                if rule is None or not segment.moves(step):
                    continue
                keep = rule.keep_prob(step, segment.total)
                weight = _weight(rule, step, segment.total)
                if weight == 0:
                    continue
                taken[step] += of_units * kept * (1 - keep)
                share[step] += of_numbers * rest * (1 - keep) * weight
                kept *= keep
                rest *= 1 - (1 - keep) * weight
            if segment.begin == 0 or segment.copied:
                step = max(segment.begin - 1, 0)
                taken[step] += of_units * kept
                share[step] += of_numbers * rest
                kept = rest = 0.0
    return Law(taken, share)


def _runs(rules: Sequence[SmoothedTensors], granularity: dict[str, str]) -> dict[str, float]:
    """Return the number of units of each tensor; units across tensors are divided among them."""
    owners: dict[tuple[str, int], list[str]] = {}
    for group in rules:
        for name, shape in group.shapes.items():
            kind = granularity[name]
            shared = name.rpartition('.')[0] if kind in ('layer', 'channel') else name
            owners.setdefault((f'{kind} {shared}', _count(shape, kind)), []).append(name)
    return {name: count / len(names) for (_, count), names in owners.items() for name in names}


def share_taken(segment: Segment, steps: Sequence[int], sample: int = 128) -> float:
    """Return the mean share of units that updates picked.

    Args:
        segment: The segment of all these updates.
        steps: The updates, at least one, each at least 1.
        sample: Maximum number of units per tensor to look at.
    """
    moving = [step for step in steps if segment.moves(step)]
    taken, units = 0.0, 0
    for group in segment.rules:
        granularity = {name: group.rule.granularity for name in group.shapes}
        probes = _probes(Segment(0, True, rules=(group,)), granularity, sample)
        keys, low = _keys(probes, list(group.shapes), group.rule)
        both = torch.unique(torch.stack([keys, low.long()]), dim=1)
        keys, low = both[0], both[1].bool()
        units += len(keys)
        many = max(1, _BLOCK // len(keys))
        for first in range(0, len(moving), many):
            taken += float(
                _picks(segment, group.rule, moving[first : first + many], keys, low).sum()
            )
    return taken / (max(1, units) * len(steps))
