# SPDX-License-Identifier: Apache-2.0
"""A dataloader whose batches are a function of the seed and the place in the run.

Neither the worker that makes a batch nor what was drawn before matters, so a resumed run goes on
with the batch that would have come, without reading the earlier ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
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

    Dataset, samplers and options are those of the loader that it is made from. A loop trains on
    :meth:`batches`, or on an iteration for which :attr:`begin` is set. Any other iteration, such as
    that of a ``PreciseBNHook``, repeats the current pass and does not affect the loop.

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
        keyed_itself = isinstance(batches, MultiSourceBatchSampler)
        if batches is None or keyed_itself or isinstance(loader.dataset, IterableDataset):
            return loader
        keyed = cls.__new__(cls)
        vars(keyed).update(vars(loader), _order=_Order(batches, seed, rank))
        return keyed

    @property
    def jumps(self) -> bool:
        """Whether any place can be reached without drawing all batches before it."""
        return self._order.known or self._order.endless

    @property
    def sampler_name(self) -> str:
        """The class that gives the order."""
        return type(getattr(self.batch_sampler, 'sampler', None) or self.batch_sampler).__name__

    def place(self, iteration: int) -> Place:
        """The place of an iteration in a run by iterations."""
        return divmod(iteration, len(self)) if self._order.known else (0, iteration)

    def arrive(self, epoch: int, batch: int) -> None:
        """Note the place of the run, for the iterations of others."""
        self._current = epoch, batch if self._order.endless else 0

    def batches(self, iteration: int) -> Iterator[Any]:
        """Iterate over the batches of a run by iterations from one on, pass after pass."""
        self._order.begin = self.place(iteration)
        while True:
            yield from super().__iter__()

    def __iter__(self) -> Any:
        begin, self.begin = self.begin, None
        # A generator, since MMEngine's loop by iterations makes an iterator that is not used.
        if begin is None:
            order = copy.copy(self._order)
            order.begin = self._current
            yield from self._get_iterator(order)
        else:
            self._order.begin = begin
            yield from super().__iter__()

    def _get_iterator(self, order: Optional[_Order] = None) -> Any:
        """Make an iterator that sees keys; the dataset and the samplers stay what they are."""
        inner = copy.copy(self)
        vars(inner).update(
            dataset=_KeyedDataset(self.dataset),
            batch_sampler=order or self._order,
            worker_init_fn=_WorkerInit(self.worker_init_fn),
            persistent_workers=self.persistent_workers and order is None,
        )
        return DataLoader._get_iterator(inner)


class Skipping:
    """The iterator of a loop by iterations whose earlier batches are skipped already.

    MMEngine skips them by calling it; the OneDL forks by ``skip_iter``, or not at all.

    Args:
        batches: The batches from the place of the loop on.
        loop: The loop.
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

    Args:
        batches: The batch sampler.
        seed: Seed of the run.
        rank: Rank of this process.

    Attributes:
        begin: Where the next iteration begins; moved to the next pass by an iteration.
        endless: Whether there is one pass, in the order of MMEngine's InfiniteSampler.
        known: Whether a pass depends on its number alone, and draws random numbers only at its
            start.
    """

    def __init__(self, batches: Any, seed: int, rank: int) -> None:
        self._batches, self._seed, self._rank = batches, seed, rank
        self.begin: Place = (0, 0)
        sampler = getattr(batches, 'sampler', None)
        plain = type(batches) is BatchSampler
        self.endless = plain and type(sampler) is InfiniteSampler
        self.known = plain and type(sampler) in (DefaultSampler, RandomSampler, SequentialSampler)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """Keys and indices; passes that are skipped as a whole are followed by the next."""
        epoch, skipped = self.begin
        while True:
            self.begin = epoch + 1, 0
            place = first = skipped if self.endless else 0
            for place, batch in enumerate(self._pass(epoch, first), first + 1):
                if place > skipped:
                    yield (self._seed, self._rank, _VIEW, epoch, place - 1), batch
            if place >= skipped or place == 0:
                return
            skipped -= place
            epoch += 1

    def _pass(self, epoch: int, first: int) -> Iterator[list[int]]:
        if self.endless:
            yield from self._shuffled(first)
        sampler: Any
        for sampler in (getattr(self._batches, 'sampler', None), self._batches):
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
        batches: Any = None
        place = 0
        while True:
            if self.known and place:
                batch = next(batches, None)
            else:
                with rng_untouched():
                    # Not by rank: some samplers make a choice that all ranks must share.
                    seed_all((self._seed, _ORDER, epoch, place))
                    batches = iter(self._batches) if batches is None else batches
                    batch = next(batches, None)
            if batch is None:
                return
            yield batch
            place += 1

    def _shuffled(self, first: int) -> Iterator[list[int]]:
        """Batches of an InfiniteSampler from one on. Each turn has an order of its own."""
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


class _WorkerInit:
    """Shows a user's ``worker_init_fn`` the dataset that it knows."""

    def __init__(self, init_fn: Any) -> None:
        self._init_fn = init_fn

    def __call__(self, worker: int) -> None:
        info: Any = get_worker_info()
        vars(info)['dataset'] = info.dataset.dataset
        if self._init_fn is not None:
            self._init_fn(worker)
