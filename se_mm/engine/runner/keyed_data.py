# SPDX-License-Identifier: Apache-2.0
"""A dataloader whose batches are a function of the seed and the place in the run.

Neither the worker that makes a batch nor what was drawn before matters, so a resumed run goes on
with the batch that would have come, without reading the earlier ones.
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

_ORDER, _VIEW = 1, 2  # What a seed is for.
Place = tuple[int, int]
"""The number of a pass over the data, and of a batch in it."""


class KeyedLoader(DataLoader):
    """A training dataloader whose order and augmentation depend on the place in the run alone.

    Dataset, samplers and options are those of the loader that it is made from. A loop by iterations
    trains on :meth:`batches`, one by epochs on an iteration for which :attr:`begin` is set. Any
    other iteration, such as that of a ``PreciseBNHook``, repeats the current pass and does not
    affect the loop.

    Attributes:
        begin: Where the next iteration of the loop begins; used once.
    """

    begin: Optional[Place] = None
    _current: Place = (0, 0)
    _order: _Order

    @classmethod
    def of(cls, loader: DataLoader, seed: int, rank: int) -> DataLoader:
        """Return a keyed copy of a loader, or the loader itself where its batches have no place.

        Args:
            loader: Not iterated yet.
            seed: Seed of the run.
            rank: Rank of this process, by which augmentation differs.
        """
        batches = loader.batch_sampler
        if batches is None or isinstance(loader.dataset, IterableDataset):
            return loader
        keyed = cls.__new__(cls)
        vars(keyed).update(vars(loader), _order=_Order(batches, seed, rank))
        return keyed

    def batches(self, iteration: int) -> Iterator[Any]:
        """Iterate over the batches of a run by iterations from one on, pass after pass."""
        self._order.begin = self._order.place(iteration)
        while True:
            for batch in super().__iter__():
                epoch, place = self._order.place(iteration)
                self._current = epoch, place if self._order.endless else 0
                yield batch
                iteration += 1

    def __iter__(self) -> Any:
        begin, self.begin = self.begin, None
        # A generator, since MMEngine's loop by iterations makes an iterator that is not used.
        if begin is None:
            order = copy.copy(self._order)
            order.begin = self._current
            yield from self._get_iterator(order)
        else:
            self._order.begin, self._current = begin, (begin[0], 0)
            yield from super().__iter__()

    def _get_iterator(self, order: Optional[_Order] = None) -> Any:
        """Make an iterator that sees keys; the dataset and the samplers stay what they are."""
        inner = copy.copy(self)
        vars(inner).update(
            dataset=_KeyedDataset(self.dataset),
            batch_sampler=order or self._order,
            worker_init_fn=partial(_init_worker, self.worker_init_fn),
            persistent_workers=self.persistent_workers and order is None,
        )
        return DataLoader._get_iterator(inner)


class Skipping:
    """The iterator of a loop by iterations whose earlier batches are skipped already.

    MMEngine skips them by calling it; the OneDL forks by ``skip_iter``, or not at all.
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
    """Whether an item depends on earlier ones: mmdet's ``CachedMosaic`` keeps some of them."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None) or []
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]
    return any(hasattr(transform, 'results_cache') for transform in transforms) or any(
        remembers(part) for part in inner if part is not None and part is not dataset
    )


class _Order:
    """The batches of indices of a pass, each with its key.

    Attributes:
        begin: Where the next iteration begins; each iteration sets it to the next pass.
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
        # Passes that depend on their number alone and are equally long.
        self._known = plain and type(sampler) in (DefaultSampler, RandomSampler, SequentialSampler)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def endless(self) -> bool:
        """Whether there is only one pass, which can begin at any batch."""
        return self._from is not None

    def place(self, iteration: int) -> Place:
        """The place of an iteration in a run by iterations."""
        return divmod(iteration, len(self)) if self._known else (0, iteration)

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """Yield keys and indices of one pass."""
        epoch, skipped = self.begin
        place = skipped if self._from else 0
        for batch in self._from(place) if self._from else self._pass(epoch):
            if place >= skipped:
                yield (self._seed, self._rank, _VIEW, epoch, place), batch
            place += 1
        # A pass may be shorter than what is to be skipped.
        self.begin = epoch + 1, max(0, skipped - place)

    def _pass(self, epoch: int) -> Iterator[list[int]]:
        sampler: Any
        for sampler in (getattr(self._batches, 'sampler', None), self._batches):
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
        batches: Any = None
        for place in itertools.count():
            with rng_untouched():
                # Not by rank: some samplers make a choice that all ranks must share.
                seed_all((self._seed, _ORDER, epoch, place))
                batches = iter(self._batches) if batches is None else batches
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _shuffled(self, first: int) -> Iterator[list[int]]:
        """The batches of an InfiniteSampler from one on. Each turn has an order of its own."""
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
    """What a fetcher gets in place of a dataset: seeds the generators before each batch."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, keyed: tuple[tuple[int, ...], list[int]]) -> list[Any]:
        key, indices = keyed
        seed_all(key)
        fetch = getattr(self.dataset, '__getitems__', None)
        return fetch(indices) if fetch else [self.dataset[index] for index in indices]


def _init_worker(init_fn: Optional[Callable[[int], None]], worker: int) -> None:
    """Show a user's ``worker_init_fn`` the dataset that it knows."""
    info: Any = get_worker_info()
    vars(info)['dataset'] = info.dataset.dataset
    if init_fn is not None:
        init_fn(worker)
