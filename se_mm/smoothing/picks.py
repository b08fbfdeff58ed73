# SPDX-License-Identifier: Apache-2.0
"""Which units are picked at an update: a pure function of (seed, update step, unit).

Every unit has a 64-bit key made from its name. A pick hashes that key together with the seed and
the step, and compares 32 bits of the hash with the keep_prob. Nothing is stored and no random
generator is used, so the picks are the same on all ranks and devices and after a resume, and can be
computed again at any time.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, *Fast Splittable Pseudorandom Number
Generators*, OOPSLA 2014) in Stafford's variant 13. The keys of a run of units differ by that
generator's increment, so that the picks of a run are its output stream. Two neighbouring elements
share a key, and each uses one half of its hash.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
INCREMENT = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def signed(number: int) -> int:
    """The int64 with the lower 64 bits of ``number``: PyTorch has no arithmetic on uint64."""
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number


def mix(number: int) -> int:
    """SplitMix64's finaliser on the lower 64 bits of one number."""
    number &= _MASK
    number = ((number ^ (number >> 30)) * MULTIPLIERS[0]) & _MASK
    number = ((number ^ (number >> 27)) * MULTIPLIERS[1]) & _MASK
    return number ^ (number >> 31)


def _xor_shifted(numbers: Tensor, bits: int) -> Tensor:
    """``numbers ^= numbers >> bits`` in place, as for unsigned numbers."""
    shifted = numbers >> bits
    shifted &= (1 << (64 - bits)) - 1
    return numbers.bitwise_xor_(shifted)


def mix_(numbers: Tensor) -> Tensor:
    """:func:`mix` in place on an int64 tensor, whose numbers are read as unsigned."""
    _xor_shifted(numbers, 30).mul_(signed(MULTIPLIERS[0]))
    _xor_shifted(numbers, 27).mul_(signed(MULTIPLIERS[1]))
    return _xor_shifted(numbers, 31)


def at_a_time(device: torch.device) -> int:
    """Elements to process at a time: few enough for a CPU's cache, or many on a GPU."""
    return 1 << 18 if device.type == 'cpu' else 1 << 25


def unit_key(name: str) -> int:
    """The 64-bit key of the unit with this name, or of the first unit of the run."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little')


def run_of_keys(first: int, count: int) -> Tensor:
    """Keys ``(count,)`` int64 of a run of units; ``first`` is the key of the first."""
    return torch.arange(count).mul_(signed(INCREMENT)).add_(signed(first))


def stream(seed: int, step: int) -> int:
    """The 64 bits that an update adds to the keys of its units."""
    return mix(mix(seed) + (step + 1) * INCREMENT)


def rank_seed(seed: int, rank: int) -> int:
    """A seed for picks that differ between ranks; rank 0 uses ``seed`` itself."""
    return mix(seed + rank * INCREMENT) if rank else seed


def threshold(keep_prob: float) -> int:
    """The smallest int32 for which 32 random bits pick a unit.

    ``keep_prob``, in [0, 1), is rounded up to a multiple of 2^-32, at most the largest below 1.
    """
    return min(math.ceil(keep_prob * (1 << 32)), (1 << 32) - 1) - (1 << 31)


def draw(keys: Tensor, seed: int, step: int, keep_prob: float) -> Tensor:
    """Which units, given by int64 keys ``(n,)``, an update picks: bool ``(n,)``."""
    bits = mix_(keys + signed(stream(seed, step)))
    return (bits >> 32) >= threshold(keep_prob)


class Elements:
    """Draws the picks of the elements of many tensors, in few operations and without waiting.

    Args:
        runs: For each tensor, the key of its first two elements, and their number.
        device: Where to draw.
    """

    def __init__(self, runs: Sequence[tuple[int, int]], device: torch.device) -> None:
        self._counts = [count for _, count in runs]
        self._device = device
        # Keys are drawn in pieces of a limited size, over all tensors: where a piece begins, and
        # for the tensors in it, the keys less the increments up to there, and how many there are.
        self._pieces: list[tuple[int, Tensor, Tensor]] = []
        self._length = 0
        room, parts = 0, list[tuple[int, int]]()
        for first, count in runs:
            base, left = first - self._length * INCREMENT, (count + 1) // 2
            while left:
                if not room:
                    room = at_a_time(device) // 2
                    self._close(parts)
                    parts = []
                part = min(left, room)
                parts.append((signed(base), part))
                self._length, left, room = self._length + part, left - part, room - part
        self._close(parts)

    def _close(self, parts: list[tuple[int, int]]) -> None:
        """Add a piece that ends here."""
        if parts:
            bases, lengths = torch.tensor(parts).T
            start = self._length - int(lengths.sum())
            self._pieces.append((start, bases.to(self._device), lengths.to(self._device)))

    def draw(self, seed: int, step: int, keep_prob: float) -> list[Tensor]:
        """Which elements an update picks: for each tensor, bool ``(count,)``."""
        picked = torch.empty(2 * self._length, dtype=torch.bool, device=self._device)
        ends = [start for start, *_ in self._pieces[1:]] + [self._length]
        for (start, bases, lengths), end in zip(self._pieces, ends):
            keys = torch.arange(start, end, device=self._device).mul_(signed(INCREMENT))
            if len(bases) > 1:
                bases = torch.repeat_interleave(bases, lengths, output_size=end - start)
            halves = mix_(keys.add_(bases).add_(signed(stream(seed, step)))).view(torch.int32)
            torch.ge(halves, threshold(keep_prob), out=picked[2 * start : 2 * end])
        parts = torch.split(picked, [count + count % 2 for count in self._counts])
        return [part[:count] for part, count in zip(parts, self._counts)]
