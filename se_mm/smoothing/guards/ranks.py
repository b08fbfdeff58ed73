# SPDX-License-Identifier: Apache-2.0
"""What the guards of a teacher ask of the other ranks of a job."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """How many ranks there are."""
    if not dist.is_available() or not dist.is_initialized():
        return 1
    return dist.get_world_size()


def all_ranks(value: Any) -> list[Any]:
    """The values of all ranks, in plain types. All ranks must call this."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def digest(tensor: Tensor) -> bytes:
    """A hash of a tensor's bits in the order of its indices, however they lie in memory."""
    numbers = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha1(numbers.cpu().numpy().data, usedforsecurity=False).digest()


def differing(tensors: Sequence[tuple[str, Tensor]]) -> list[tuple[str, int]]:
    """Which tensors differ over the ranks.

    All ranks must call this, with the same names in the same order, and get the same answer.

    Args:
        tensors: Named tensors.

    Returns:
        The name of each tensor that differs from rank 0's, with the first rank where it does.
    """
    rows = all_ranks([digest(tensor) for _, tensor in tensors])
    found = []
    for (name, _), column in zip(tensors, zip(*rows)):
        ranks = [rank for rank, number in enumerate(column) if number != column[0]]
        if ranks:
            found.append((name, ranks[0]))
    return found
