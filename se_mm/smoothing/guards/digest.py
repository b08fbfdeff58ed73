# SPDX-License-Identifier: Apache-2.0
"""Digests of tensors: one number for each, by which ranks find out whether they hold the same.

The bits of a tensor are read as integers ``b_i`` of at most 32 bits, each is multiplied by an odd
64-bit weight ``w_i`` that depends on its position, and the products are summed modulo 2^64. As a
weight is odd, any change of one number shows; as weights are the output of a hash (that of
:mod:`~se_mm.smoothing.picks`), numbers that change places, signs that flip and values that are
scaled go unseen with a probability of 2^-32 at most. It is no defence against somebody who wants
a collision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from se_mm.smoothing.guards.ranks import all_ranks
from se_mm.smoothing.picks import mix_, run_of_keys, signed, unit_key

# Integers are read this many at a time: their products then stay in the processor's cache.
_PIECE = 1 << 16
# Bytes of a number -> the integers that it is read as, and how many they are.
_INTEGERS = {
    1: (torch.int8, 1),
    2: (torch.int16, 1),
    4: (torch.int32, 1),
    8: (torch.int32, 2),
    16: (torch.int32, 4),
}


@torch.no_grad()
def digest(tensor: Tensor) -> Tensor:
    """The digest of a tensor: of its values in their order, however they lie in memory.

    Args:
        tensor: Of any shape, dtype and device. It is not copied but for a piece at a time.

    Returns:
        Tensor: a scalar int64 on the tensor's device, for which the host does not wait.
    """
    weights = _weights(tensor.device)
    # A number of 64 bits is two integers. Its sign would else be a bit that every odd weight leaves
    # where it is, and two flipped signs would cancel.
    integers, count = _INTEGERS[tensor.element_size()]
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for index, piece in enumerate(_pieces(tensor.detach(), _PIECE // count)):
        bits = piece.view(integers)
        # The weights of a piece are those of the first one, times its own.
        total += (bits * weights[: len(bits)]).sum() * _weight_of_piece(index)
    return total


def differing(tensors: Sequence[tuple[str, Tensor]]) -> list[tuple[str, int]]:
    """Which tensors differ over the ranks; the host waits for the device once.

    All ranks must call this, with the same names in the same order, and get the same answer.

    Args:
        tensors: Named tensors.

    Returns:
        The name of each tensor that differs from rank 0's, with the first rank where it does.
    """
    if not tensors:
        return []
    digests = [digest(tensor) for _, tensor in tensors]
    device = digests[0].device
    rows = all_ranks(torch.stack([number.to(device) for number in digests])).tolist()
    found = []
    for index, (name, _) in enumerate(tensors):
        column = [row[index] for row in rows]
        ranks = [rank for rank, number in enumerate(column) if number != column[0]]
        if ranks:
            found.append((name, ranks[0]))
    return found


def _pieces(tensor: Tensor, most: int) -> Iterator[Tensor]:
    """A tensor's numbers in their order, ``(n,)`` at a time, each piece in one run of memory.

    Where a piece ends depends on the shape alone, so that the layout makes no difference.
    """
    if tensor.numel() <= most:
        if tensor.numel():
            yield tensor.reshape(-1)
        return
    rows = most * len(tensor) // tensor.numel()
    if not rows:
        for row in tensor:
            yield from _pieces(row, most)
        return
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows].reshape(-1)


@cache
def _weights(device: torch.device) -> Tensor:
    """Odd weights of the positions in a piece, int64; made once for a device."""
    return mix_(run_of_keys(unit_key('digest'), _PIECE, device=device)).bitwise_or_(1)


@cache
def _weight_of_piece(index: int) -> int:
    """The odd weight of a piece, as the int64 that PyTorch multiplies with."""
    return signed(unit_key(f'digest piece {index}') | 1)
