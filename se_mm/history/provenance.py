# SPDX-License-Identifier: Apache-2.0
"""Compute the origin of each unit of a teacher from its history, without weights.

The computation goes backwards from the last update. For each unit it tracks the share r of the
contents whose origin is still unknown, at first 1: if the unit was picked at update s with weight
m, the share ``r m`` comes from the student of update s, and ``r (1 - m)`` from earlier updates.
The expected distribution is the same with the probability of a pick in place of the pick.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import nan, prod
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from se_mm.history.segments import Segment
from se_mm.smoothing.picks import INCREMENT, mix_, signed, stream, threshold
from se_mm.smoothing.settings import Rule, Settings
from se_mm.smoothing.units import Pair, Units

SAMPLE = 1024
"""Maximum number of units of a tensor that are tracked, the first ones."""
LEAST = 1e-8
"""An unknown share of a unit below this is assigned to the first update."""
BEFORE = -1
"""Stands for updates before se_mm took over."""

_STEPS = 256  # Updates computed at a time; units that are known are then dropped.
_COPY = Settings(keep_prob=0.0).default  # The rule of an update that copies every unit.


@dataclass(frozen=True)
class TensorHistory:
    """The history of a tensor of the teacher.

    Attributes:
        name: Its name in the student's model.
        shape: Its shape.
        units: Number of its units, at the finest granularity that it ever had; the first
            ``len(taken)`` of them are tracked.
        keys: ``(n,)`` int64: equal for parts of one unit in several tensors, as in a layer.
        taken: ``(n,)`` int64: the update at which each unit was last picked, or :data:`BEFORE`.
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
        _, first = np.unique(keys.numpy(), return_index=True)
        return torch.cat([tensor.taken for tensor in self.tensors])[first]

    @property
    def sampled(self) -> bool:
        """Whether some units were not tracked."""
        return any(tensor.units > len(tensor.taken) for tensor in self.tensors)

    @property
    def mean_age(self) -> float:
        """Mean age of the teacher's numbers, in updates."""
        ages = [float(tensor.age.mean()) for tensor in self.tensors]
        return float(np.average(ages, weights=[prod(tensor.shape) for tensor in self.tensors]))

    @property
    def oldest(self) -> int:
        """Number of updates since the oldest unit was picked."""
        return self.updates - 1 - int(self.taken.clamp(min=0).min())

    @property
    def effective_size(self) -> float:
        """Effective number of updates that the contents come from."""
        return effective_size(self.share, self.before)


@dataclass(frozen=True)
class Law:
    """Expected distribution of a provenance over the picks.

    Attributes:
        taken: ``(updates,)`` float64: probability that a unit was last picked at each update.
        share: ``(updates,)`` float64: expected share of the contents from each update, as for an
            average of momentum ``(1 - keep_prob) * momentum``; NaN as in :class:`Provenance`.
    """

    taken: Tensor
    share: Tensor

    @property
    def mean_age(self) -> float:
        """Mean age of the contents, in updates."""
        ages = torch.arange(len(self.share)).flip(0).double()
        return float(self.share @ ages / self.share.sum())


def effective_size(share: Tensor, before: float = 0.0) -> float:
    """Compute the effective number of shares, the inverse Simpson index.

    It is ``(2 - m) / m`` for an average of momentum m, and ``(1 + keep_prob) / (1 - keep_prob)``
    for an SE teacher with many units.

    Args:
        share: Shares of any shape, which sum to 1 together with ``before``.
        before: One more share.
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
    block, shapes = cache(_block), segments[-1].shapes
    share = torch.zeros(updates + 1, dtype=torch.float64)  # The last entry is BEFORE.
    ages = (updates - 1 - torch.arange(updates + 1)).double()
    if not segments[0].known:
        ages[BEFORE] = updates - segments[1].begin
    tensors = []
    for name, shape in shapes.items():
        finest = _finest(segments, name)
        places = _places(name, shape, finest, sample)
        part_of_teacher = prod(shape) / sum(map(prod, shapes.values())) / len(places)
        taken = torch.full_like(places, BEFORE)
        age = torch.zeros(len(places), dtype=torch.float64)
        for steps, found, parts in _origins(segments, updates, block, name, places):
            share[steps] += parts.sum(0) * part_of_teacher
            age[found] += parts @ ages[steps]
            new = taken[found] == BEFORE
            taken[found[new]] = torch.where(parts[new] != 0, steps, BEFORE).amax(1)
        units = prod(shape) // _units(name, shape, finest)[1]
        keys, low = _keys(name, shape, finest, places)
        tensors.append(TensorHistory(name, shape, units, keys * 2 + low, taken, age))
    return Provenance(updates, tuple(tensors), share[:updates], float(share[BEFORE]))


@torch.no_grad()
def law(segments: Sequence[Segment], updates: int) -> Law:
    """Compute the expected distribution of a provenance: geometric if keep_prob is constant.

    Contents from before se_mm took over are not included.

    Args:
        segments: The history, oldest first; the last segment is known.
        updates: Updates made, at least 1.
    """
    block, shapes = cache(_block), segments[-1].shapes
    runs = [_units(name, shape, _finest(segments, name)) for name, shape in shapes.items()]
    tensors = Counter(first for first, _ in runs)  # How many share the units of a run.
    numbers = torch.tensor([prod(shape) for shape in shapes.values()]).double()
    units = numbers / torch.tensor([size * tensors[first] for first, size in runs])
    weights = torch.stack([units / units.sum(), numbers / numbers.sum()], 1)
    found = torch.zeros(2, updates + 1, dtype=torch.float64)  # The last column is BEFORE.
    for name, weight in zip(shapes, weights):
        for steps, rows, parts in _origins(segments, updates, block, name):
            found[rows[:, None], steps] += parts * weight[rows, None]
    return Law(*found[:, :updates])


def share_taken(segment: Segment, steps: range, sample: int = 128) -> float:
    """Return the mean share of units that updates picked.

    Args:
        segment: The segment of all these updates.
        steps: The updates, at least one, each at least 1.
        sample: Maximum number of units per tensor to look at.
    """
    picked, units = 0, 0
    for rule, shapes in segment.rules:
        some, kind = _block(segment, rule, steps.start, steps.stop), rule.granularity
        # Units of several tensors are looked at once.
        runs = {_units(name, shape, kind)[0]: name for name, shape in shapes.items()}
        for name in runs.values():
            places = _places(name, shapes[name], kind, sample)
            picked += int(some.picks(*_keys(name, shapes[name], kind, places)).sum())
            units += len(places)
    return picked / (max(1, units) * len(steps))


class _Block(NamedTuple):
    """Updates of a rule, newest first: tensors of shape ``(S,)``."""

    steps: Tensor
    chances: Tensor  # Probability that a unit is picked.
    weights: Tensor  # Weight of the new value in a picked unit; NaN if unknown.
    streams: Tensor  # What the hash adds to a unit's key.
    thresholds: Tensor  # Least number that a picked unit draws.

    def picks(self, keys: Tensor, low: Tensor) -> Tensor:
        """Return which units were picked at which update: ``(n, S)`` bool."""
        bits = mix_(keys[:, None] + self.streams)
        # Two neighbouring elements share a hash, each with its half; other units use the upper one.
        drawn = (torch.where(low[:, None], bits << 32, bits) if low.any() else bits) >> 32
        return drawn >= self.thresholds


def _block(segment: Segment, rule: Rule, begin: int, end: int) -> _Block:
    """Return the updates that smoothed in ``range(begin, end)``."""
    steps = [step for step in reversed(range(begin, end)) if segment.moves(step)]
    keep_probs = [rule.keep_prob(step, segment.total) for step in steps]
    averages = [rule.average(step, segment.total, lambda _: nan) for step in steps]
    return _Block(
        torch.tensor(steps, dtype=torch.int64),
        1 - torch.tensor(keep_probs, dtype=torch.float64),
        torch.tensor([1.0 if w is None else w for w in averages], dtype=torch.float64),
        torch.tensor([signed(stream(segment.seed, step)) for step in steps]),
        torch.tensor([threshold(keep_prob) for keep_prob in keep_probs]),
    )


def _back(segments: Sequence[Segment], updates: int, name: str) -> Iterator[tuple]:
    """Yield arguments of :func:`_block` for the updates of a tensor but the first, newest first."""
    ends = [*(segment.begin for segment in segments[1:]), updates]
    for segment, end in zip(reversed(segments), reversed(ends)):
        begin, rule = max(segment.begin, 1), segment.smoothing(name)
        if rule is not None:
            for stop in range(end, begin, -_STEPS):
                yield segment, rule, max(begin, stop - _STEPS), stop
        elif name in segment.followed and end > segment.begin:
            yield Segment(0), _COPY, end - 1, end
        if segment.copied and segment.begin:
            yield Segment(0), _COPY, segment.begin - 1, segment.begin


def _origins(
    segments: Sequence[Segment],
    updates: int,
    block: Callable[..., _Block],
    name: str,
    places: Optional[Tensor] = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield where the contents of a tensor come from, newest first.

    Args:
        segments: The history.
        updates: Updates made.
        block: :func:`_block`, cached.
        name: Name of the tensor.
        places: ``(n,)`` int64: flat index of an element of each unit to look at. None: two rows of
            what is expected, when a unit was last picked and where its contents come from.

    Yields:
        ``(S,)`` steps, ``(m,)`` indices of units, and ``(m, S)`` float64, the shares of these
        units' contents that come from these steps.
    """
    shape = segments[-1].shapes[name]
    rest = torch.ones(2 if places is None else len(places), dtype=torch.float64)
    for segment, rule, begin, end in _back(segments, updates, name):
        units = (~(rest <= LEAST)).nonzero()[:, 0]  # NaN stays.
        if not len(units):
            break
        some = block(segment, rule, begin, end)
        if not len(some.steps):
            continue
        if places is None:
            replaced = some.chances * torch.stack([(some.weights != 0).double(), some.weights])
            replaced = replaced[units]
        else:
            picks = some.picks(*_keys(name, shape, rule.granularity, places[units]))
            replaced = picks * some.weights
            if some.weights.isnan().any():
                replaced.masked_fill_(~picks, 0)
        left = torch.cat([rest[units, None], 1 - replaced], 1).cumprod(1)
        rest[units] = left[:, -1]
        yield some.steps, units, left[:, :-1] - left[:, 1:]
    first = 0 if segments[0].known else BEFORE
    yield torch.tensor([first]), torch.arange(len(rest)), rest[:, None]


def _finest(segments: Sequence[Segment], name: str) -> str:
    """Return the finest granularity that a tensor had."""
    rules = [segment.smoothing(name) for segment in segments]
    order = ('layer', 'tensor', 'channel', 'element')
    return max((rule.granularity for rule in rules if rule), key=order.index)


def _units(name: str, shape: Sequence[int], granularity: str) -> tuple[int, int]:
    """Return the key of a tensor's first unit, and how many numbers a unit has."""
    tensor = torch.empty(shape, device='meta')
    units = Units([Pair(name, tensor, tensor)], granularity)
    return signed(units.firsts[0]), units.sizes[0]


def _places(name: str, shape: Sequence[int], granularity: str, sample: int) -> Tensor:
    """Return the flat index of the first number of each of a tensor's first units."""
    size = _units(name, shape, granularity)[1]
    return torch.arange(min(prod(shape) // size, sample)) * size


def _keys(
    name: str, shape: Sequence[int], granularity: str, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the keys of the units at flat indices, and whether each uses its hash's lower half."""
    first, size = _units(name, shape, granularity)
    halves = 2 if granularity == 'element' else 1
    keys = places // (size * halves) * signed(INCREMENT) + first
    return keys, places % halves < halves - 1
