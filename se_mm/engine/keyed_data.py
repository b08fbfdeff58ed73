# SPDX-License-Identifier: Apache-2.0
"""Dataloaders whose randomness is a function of the seed and the position in the run.

What a worker draws then depends neither on which worker it is nor on what it did before, so a
resumed run goes on with the very batch that would have come, and reads nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from se_mm.datasets.multi_source_batch_sampler import Draw, MultiSourceBatchSampler
from se_mm.rng import rng_untouched, seed_all

_ORDER, _VIEW = 1, 2  # What a seed is for.


class KeyedBatches:
    """A batch sampler whose indices know their place in the run.

    A sampler that draws from the global generators draws the same for the same place.

    Args:
        batches: The batch sampler.
        seed: Seed of the run.
        rank: Rank of this process, for what differs between ranks.
        epoch: Pass over the data that comes first.
        skipped: Batches of it that are left out, or of the passes after it if it is shorter.
    """

    def __init__(self, batches: Any, seed: int, rank: int, epoch: int, skipped: int) -> None:
        self._batches = batches
        self._seed = seed
        self._rank = rank
        self._epoch = epoch
        self._skipped = skipped

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return getattr(self._batches, name)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        """The batches of the next pass; of one after it, where it is skipped as a whole."""
        epoch, skipped = self._epoch, self._skipped
        self._skipped = 0
        while True:
            self._epoch = epoch + 1
            place = -1
            for place, batch in enumerate(self._pass(epoch)):
                if place >= skipped:
                    yield [
                        Draw(index, (self._seed, self._rank, _VIEW, epoch, place, item))
                        for item, index in enumerate(batch)
                    ]
            skipped -= place + 1
            if skipped <= 0 or place < 0:
                return
            epoch += 1

    def _pass(self, epoch: int) -> Iterator[list[int]]:
        """One pass over the data."""
        for sampler in (getattr(self._batches, 'sampler', None), self._batches):
            if hasattr(sampler, 'set_epoch'):
                # MMEngine's own count begins anew with a resume by iterations.
                sampler.set_epoch(epoch)
        batches: Any = None
        place = 0
        while True:
            with rng_untouched():
                # Not by rank: some samplers choose what all ranks must choose alike.
                seed_all((self._seed, _ORDER, epoch, place))
                batches = iter(self._batches) if batches is None else batches
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch
            place += 1


class Skipping:
    """An iterator before which a number of batches are skipped, without reading them.

    mmengine skips by reading on, the OneDL forks ask for it by ``skip_iter``.

    Args:
        batches: What comes afterwards.
        skipped: How many batches are skipped before.
    """

    def __init__(self, batches: Iterator[Any], skipped: int) -> None:
        self._batches = batches
        self._skipped = skipped

    def __next__(self) -> Any:
        if self._skipped:
            self._skipped -= 1
            return None
        return next(self._batches)

    def skip_iter(self, count: int) -> None:
        """Skip ``count`` batches."""
        self._skipped -= count


def key_dataloader(loader: DataLoader, seed: int, rank: int, epoch: int, skipped: int) -> None:
    """Make what a dataloader draws a function of the seed and the position. In place.

    Args:
        loader: Not iterated yet. One that is keyed already stays as it is.
        seed: Seed of the run.
        rank: Rank of this process.
        epoch: Pass over the data that comes first.
        skipped: Batches of it that are left out.
    """
    batches = loader.batch_sampler
    if batches is None or isinstance(batches, MultiSourceBatchSampler):
        return
    # PyTorch forbids to set it, since it keeps nothing else in step with it: there is nothing.
    vars(loader)['batch_sampler'] = KeyedBatches(batches, seed, rank, epoch, skipped)
    if loader.num_workers:
        loader.worker_init_fn = _KeyedWorker(loader.worker_init_fn)
    else:
        _key_dataset(loader.dataset)


def remembers(dataset: Any) -> bool:
    """Whether an item depends on those before it: mmdet's ``CachedMosaic`` keeps some of them."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None) or []
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]
    return any(hasattr(transform, 'results_cache') for transform in transforms) or any(
        remembers(part) for part in inner if part is not None and part is not dataset
    )


class _KeyedWorker:
    """What a worker does first.

    Args:
        init_fn: What it would have done.
    """

    def __init__(self, init_fn: Any) -> None:
        self._init_fn = init_fn

    def __call__(self, worker: int) -> None:
        if self._init_fn is not None:
            self._init_fn(worker)
        _key_dataset(get_worker_info().dataset)


def _key_dataset(dataset: Any) -> None:
    """Let a data set seed the generators by the key of what it is asked for.

    It stays the object it is, and an instance of its class: hooks change its pipeline, and loops
    look at its class.
    """
    kind = type(dataset)
    if hasattr(kind, 'keyed'):
        return

    def get_item(self: Any, index: int) -> Any:
        if not isinstance(index, Draw):
            return kind.__getitem__(self, index)
        # A worker's generators serve nothing else.
        with rng_untouched() if get_worker_info() is None else nullcontext():
            seed_all(index.key)
            return kind.__getitem__(self, int(index))

    names = {'__module__': kind.__module__, '__getitem__': get_item, 'keyed': True}
    dataset.__class__ = type(kind.__name__, (kind,), names)
