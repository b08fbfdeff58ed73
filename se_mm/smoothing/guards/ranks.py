# SPDX-License-Identifier: Apache-2.0
"""What the guards of a teacher ask of the other ranks of a job."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """How many ranks there are."""
    if not dist.is_available() or not dist.is_initialized():
        return 1
    return dist.get_world_size()


def max_over_ranks(numbers: Tensor) -> Tensor:
    """The greatest of each number over the ranks; no wait for the device.

    Args:
        numbers: ``(n,)``, on every rank.
    """
    if world_size() == 1:
        return numbers
    numbers = _where_ranks_talk(numbers)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return numbers


def all_ranks(numbers: Tensor) -> Tensor:
    """The numbers of all ranks, ``(ranks, n)``; no wait for the device.

    Args:
        numbers: ``(n,)``, on every rank.
    """
    if world_size() == 1:
        return numbers[None]
    numbers = _where_ranks_talk(numbers)
    rows = [torch.empty_like(numbers) for _ in range(world_size())]
    dist.all_gather(rows, numbers)
    return torch.stack(rows)


def _where_ranks_talk(numbers: Tensor) -> Tensor:
    """The numbers on a device that the process group takes: a teacher may be elsewhere."""
    backend = str(dist.get_backend())
    if backend == 'nccl' and not numbers.is_cuda:
        return numbers.cuda()
    return numbers.cpu() if backend in ('gloo', 'mpi') else numbers
