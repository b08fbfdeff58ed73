# SPDX-License-Identifier: Apache-2.0
"""A dataloader whose batches depend only on the seed and the place in the run.

A resumed run continues with the next batch, without reading earlier ones: a batch does not depend
on the worker that makes it, or on earlier random numbers.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Optional

import numpy as np
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    get_worker_info,
)

from se_mm.datasets.multi_source_batch_sampler import MultiSourceBatchSampler
from se_mm.rng import rng_untouched, seed_all

_ORDER, _VIEW = 1, 2  # In a seed: its use.
Place = tuple[int, int]
"""Number of a pass over the data, and of a batch in that pass."""


class KeyedLoader(DataLoader):
    """A training dataloader whose order and augmentation depend only on the place in the run.

    It has the dataset, the samplers and the options of the loader that it is made from. An
    iteration-based loop uses :meth:`batches`, an epoch-based one sets :attr:`begin` and iterates.
    Any other iterator, such as that of a ``PreciseBNHook``, repeats the current pass and does not
    affect the loop.

    Attributes:
        begin: Where the next iterator of an epoch-based loop begins; used once.
    """

    begin: Optional[Place] = None
    _current: Place = (0, 0)
    _order: _Order

    @classmethod
    def of(cls, loader: DataLoader, seed: int, rank: int) -> DataLoader:
        """Return a keyed copy of a loader; the loader itself if its dataset has no indices.

        Args:
            loader: A loader without iterators so far.
            seed: Seed of the run.
            rank: Rank of this process; ranks differ in augmentation.
        """
        batches = loader.batch_sampler
        if batches is None or isinstance(loader.dataset, IterableDataset):
            return loader
        keyed = cls.__new__(cls)
        vars(keyed).update(vars(loader), _order=_Order(batches, seed, rank))
        return keyed

    def batches(self, iteration: int) -> Iterator[Any]:
        """Yield the batches of an iteration-based run from an iteration on, pass after pass."""
        self._order.begin = self._order.place(iteration)
        while True:
            for batch in super().__iter__():
                epoch, place = self._order.place(iteration)
                self._current = epoch, place if self._order.endless else 0
                yield batch
                iteration += 1

    def __iter__(self) -> Any:
        begin, self.begin = self.begin, None
        # A generator, since MMEngine's iteration-based loop makes an iterator without using it.
        if begin is None:
            order = copy.copy(self._order)
            order.begin = self._current
            yield from self._get_iterator(order)
        else:
            self._order.begin, self._current = begin, (begin[0], 0)
            yield from super().__iter__()

    def _get_iterator(self, order: Optional[_Order] = None) -> Any:
        """Make an iterator over keyed batches; dataset and samplers are not changed."""
        inner = copy.copy(self)
        vars(inner).update(
            dataset=_KeyedDataset(self.dataset),
            batch_sampler=order or self._order,
            worker_init_fn=partial(_init_worker, self.worker_init_fn),
            persistent_workers=self.persistent_workers and order is None,
        )
        return DataLoader._get_iterator(inner)


class Skipping:
    """Iterator of a resumed iteration-based loop, positioned at its next batch.

    MMEngine skips earlier batches by calling it; the OneDL forks call ``skip_iter``, or do not
    skip any.
    """

    def __init__(self, batches: Iterator[Any], loop: Any) -> None:
        self._batches = batches
        self._skipped = 0 if getattr(loop, 'fast_forward_on_resume', False) else loop.iter

    def __next__(self) -> Any:
        if self._skipped:
            self._skipped -= 1
            return None
        return next(self._batches)

    def skip_iter(self, count: int) -> None:
        """Skip ``count`` batches."""
        self._skipped -= count


def remembers(dataset: Any) -> bool:
    """Return whether an item depends on earlier ones: mmdet's ``CachedMosaic`` keeps some."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None) or []
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]
    return any(hasattr(transform, 'results_cache') for transform in transforms) or any(
        remembers(part) for part in inner if part is not None and part is not dataset
    )


class _Order:
    """Batches of indices of a pass, each with its key.

    Attributes:
        begin: Where the next iterator begins; each iterator sets it to the next pass.
    """

    def __init__(self, batches: Any, seed: int, rank: int) -> None:
        self._batches, self._seed, self._rank = batches, seed, rank
        self.begin: Place = (0, 0)
        sampler = getattr(batches, 'sampler', None)
        plain = type(batches) is BatchSampler
        self._from: Optional[Callable[[int], Iterator[list[int]]]] = None
        if isinstance(batches, MultiSourceBatchSampler):
            self._from = batches.batches
        elif plain and type(sampler) is InfiniteSampler:
            self._from = self._shuffled
        # Passes that depend only on their number and have the same length.
        self._known = plain and type(sampler) in (DefaultSampler, RandomSampler, SequentialSampler)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def endless(self) -> bool:
        """Whether there is a single endless pass, which can begin at any batch."""
        return self._from is not None

    def place(self, iteration: int) -> Place:
        """Return the place of an iteration of an iteration-based run."""
        return divmod(iteration, len(self)) if self._known else (0, iteration)

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """Yield keys and indices of one pass."""
        epoch, skipped = self.begin
        place = skipped if self._from else 0
        for batch in self._from(place) if self._from else self._pass(epoch):
            if place >= skipped:
                yield (self._seed, self._rank, _VIEW, epoch, place), batch
            place += 1
        # A pass may have fewer batches than are to be skipped.
        self.begin = epoch + 1, max(0, skipped - place)

    def _pass(self, epoch: int) -> Iterator[list[int]]:
        sampler: Any
        for sampler in (getattr(self._batches, 'sampler', None), self._batches):
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
        batches: Any = None
        for place in itertools.count():
            with rng_untouched():
                # The same seed on all ranks: some samplers make a choice that ranks must share.
                seed_all((self._seed, _ORDER, epoch, place))
                batches = iter(self._batches) if batches is None else batches
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _shuffled(self, first: int) -> Iterator[list[int]]:
        """Yield the batches of an InfiniteSampler from one on; each turn has another order."""
        sampler, size = self._batches.sampler, self._batches.batch_size
        position = first * size * sampler.world_size + sampler.rank
        known, order = -1, np.arange(sampler.size)
        while True:
            batch = []
            for _ in range(size):
                turn, place = divmod(position, sampler.size)
                if sampler.shuffle and turn != known:
                    rng = np.random.default_rng((sampler.seed, _ORDER, turn))
                    known, order = turn, rng.permutation(sampler.size)
                batch.append(int(order[place]))
                position += sampler.world_size
            yield batch


class _KeyedDataset:
    """Wraps a dataset for PyTorch's fetcher, to seed the generators before each batch."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, keyed: tuple[tuple[int, ...], list[int]]) -> list[Any]:
        key, indices = keyed
        seed_all(key)
        fetch = getattr(self.dataset, '__getitems__', None)
        return fetch(indices) if fetch else [self.dataset[index] for index in indices]


def _init_worker(init_fn: Optional[Callable[[int], None]], worker: int) -> None:
    """Call a user's ``worker_init_fn`` with the unwrapped dataset in the worker's info."""
    info: Any = get_worker_info()
    vars(info)['dataset'] = info.dataset.dataset
    if init_fn is not None:
        init_fn(worker)
