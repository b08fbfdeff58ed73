# SPDX-License-Identifier: Apache-2.0
"""Batch sampler that draws from labelled and unlabelled images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Optional

import numpy as np
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from se_mm.smoothing.options import OptionError, check_count


@DATA_SAMPLERS.register_module()
class MultiSourceBatchSampler(Sampler):
    """Draws a fixed number of images from each source of a data set for each batch.

    Passes over each source repeat endlessly, each in a new random order. Draws are a function of
    the seed, the step and the rank: within a pass the ranks' batches do not overlap, and a
    :class:`~se_mm.engine.ResumableRunner` resumes at its step without replaying earlier batches.

    Example:
        >>> train_dataloader = dict(
        ...     batch_size=64,
        ...     sampler=dict(type='InfiniteSampler'),
        ...     batch_sampler=dict(type='MultiSourceBatchSampler', mu=7),
        ... )

    Args:
        sampler: Provides the seed and the data set, which must have ``source_sizes``; built by
            Runner from the config.
        batch_size: Labelled images per batch on each rank.
        mu: Unlabelled images per labelled one, at least 1. None: 1, or no unlabelled images.
    """

    def __init__(self, sampler: Any, batch_size: int, mu: Optional[int] = None) -> None:
        sizes = getattr(sampler.dataset, 'source_sizes', None)
        if sizes is None:
            raise OptionError(
                f'MultiSourceBatchSampler needs a data set of several sources, such as '
                f'SemiSupervisedDataset, got {type(sampler.dataset).__name__}'
            )
        if mu is not None and len(sizes) == 1:
            raise OptionError(
                f'mu must be left out for a data set without unlabelled images, got {mu!r}'
            )
        check_count('batch_size', batch_size, 1)
        mu = check_count('mu', 1 if mu is None else mu, 1)
        self.batch_sizes = [batch_size, *(batch_size * mu for _ in sizes[1:])]
        self.sampler = sampler
        self.sizes = list(sizes)
        self.rank, self.world_size = get_dist_info()
        self.seed = int(sampler.seed)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield batches from the first step on, endlessly."""
        return self.batches(0)

    def batches(self, step: int) -> Iterator[list[int]]:
        """Yield the batches of this rank from a step on, endlessly."""
        # A batch may begin in one pass over a source and end in the next.
        order = lru_cache(maxsize=2 * len(self.sizes))(self._order)
        while True:
            batch = []
            for source, count in enumerate(self.batch_sizes):
                offset = sum(self.sizes[:source])
                first = (step * self.world_size + self.rank) * count
                for position in range(first, first + count):
                    turn, place = divmod(position, self.sizes[source])
                    batch.append(offset + int(order(source, turn)[place]))
            yield batch
            step += 1

    def __len__(self) -> int:
        """Number of batches of one pass over the source that takes longest."""
        per_step = [count * self.world_size for count in self.batch_sizes]
        return max(-(-size // count) for size, count in zip(self.sizes, per_step))

    def _order(self, source: int, turn: int) -> np.ndarray:
        """Return the order of a source in a pass."""
        rng = np.random.default_rng((self.seed, source, turn))
        return rng.permutation(self.sizes[source])
