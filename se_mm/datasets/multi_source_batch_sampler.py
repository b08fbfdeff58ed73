# SPDX-License-Identifier: Apache-2.0
"""Batch sampler that draws from labelled and unlabelled images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from se_mm.smoothing.options import OptionError, check_count


class Draw(int):
    """An index into a data set with a key that is unique in the run.

    The data set seeds the randomness of a view with the key, so that the view does not depend on
    the worker that makes it or on whether the run was resumed.

    Attributes:
        key: Unique integers: the seed, the source, and the position in the draws from it.
    """

    key: tuple[int, ...]

    def __new__(cls, index: int, key: tuple[int, ...] = (0, 0, 0)) -> Draw:
        """Attach a key to an index."""
        draw = super().__new__(cls, index)
        draw.key = key
        return draw


@DATA_SAMPLERS.register_module()
class MultiSourceBatchSampler(Sampler):
    """Draws a fixed number of images from each source of a data set for each batch.

    Passes over each source repeat endlessly, each in a new random order. Draws are a function of
    the seed, the step and the rank: within a pass the ranks' batches do not overlap, and a resumed
    run continues at its step without replaying earlier batches.

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
        mu: Unlabelled images per labelled one, at least 1.
        batch_sizes: Images of each source per batch, instead of ``mu``.

    Attributes:
        step: Step of the first batch of the next iterator.
        seed: Seed of the order.

    Raises:
        OptionError: If an option is out of range or does not fit the data set.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        mu: Optional[int] = None,
        batch_sizes: Optional[list[int]] = None,
    ) -> None:
        dataset = sampler.dataset
        sizes = getattr(dataset, 'source_sizes', None)
        if sizes is None:
            raise OptionError(
                f'MultiSourceBatchSampler needs a data set of several sources, such as '
                f'SemiSupervisedDataset, got {type(dataset).__name__}'
            )
        check_count('batch_size', batch_size, 1)
        if batch_sizes is None:
            if mu is not None and len(sizes) < 2:
                raise OptionError(
                    f'mu must be left out for a data set without unlabelled images, got {mu!r}'
                )
            mu = check_count('mu', 1 if mu is None else mu, 1)
            batch_sizes = [batch_size, *(batch_size * mu for _ in sizes[1:])]
        elif not isinstance(batch_sizes, (list, tuple)):
            raise OptionError(f'batch_sizes must be a list of integers, got {batch_sizes!r}')
        elif mu is not None:
            raise OptionError(
                f'mu and batch_sizes must not both be set, got {mu!r} and {batch_sizes!r}'
            )
        elif len(batch_sizes) != len(sizes):
            raise OptionError(
                f'batch_sizes must have one number for each of {len(sizes)} sources, got '
                f'{batch_sizes!r}'
            )
        elif batch_sizes[0] != batch_size:
            raise OptionError(
                f'batch_sizes must begin with batch_size, the number of labelled images '
                f'({batch_size}), got {batch_sizes!r}'
            )
        self.batch_sizes = [check_count('batch_sizes', size, 1) for size in batch_sizes]
        self.sampler = sampler
        self.sizes = list(sizes)
        self.rank, self.world_size = get_dist_info()
        self.seed = int(sampler.seed)
        self.step = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield batches from :attr:`step` on, endlessly."""
        offsets = np.cumsum([0, *self.sizes])
        orders: list[dict[int, np.ndarray]] = [{} for _ in self.sizes]
        step = self.step
        while True:
            batch = []
            for source, count in enumerate(self.batch_sizes):
                first = (step * self.world_size + self.rank) * count
                for position in range(first, first + count):
                    turn, place = divmod(position, self.sizes[source])
                    order = self._order(orders[source], source, turn)
                    index = int(offsets[source] + order[place])
                    batch.append(Draw(index, (self.seed, source, position)))
            yield batch
            step += 1

    def __len__(self) -> int:
        """Number of batches of one pass over the source that takes longest."""
        per_step = [count * self.world_size for count in self.batch_sizes]
        return max(-(-size // count) for size, count in zip(self.sizes, per_step))

    def _order(self, known: dict[int, np.ndarray], source: int, turn: int) -> np.ndarray:
        """Return the order of a source in a pass; ``known`` caches the last two."""
        if turn not in known:
            rng = np.random.default_rng((self.seed, source, turn))
            known[turn] = rng.permutation(self.sizes[source])
            for old in [other for other in known if other < turn - 1]:
                del known[old]
        return known[turn]
