# SPDX-License-Identifier: Apache-2.0
"""Batches depend on the seed and the place in the run alone, whoever else reads the data."""

import itertools
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    Sampler,
    Subset,
    get_worker_info,
)

from se_mm.datasets import MultiSourceBatchSampler
from se_mm.engine.runner.keyed_data import KeyedLoader


class Noisy(Dataset):
    """A dataset whose items have random numbers of all three generators."""

    def __init__(self, size=10):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return [int(index), random.random(), float(np.random.rand()), float(torch.rand(()))]


class Batched(Noisy):
    """A dataset that reads a batch at once."""

    def __getitems__(self, indices):
        noise = torch.rand(len(indices))
        return [[int(index), float(x)] for index, x in zip(torch.tensor(indices), noise)]


class Strange(Sampler):
    """A sampler of a user's own: endless, stateful, and with the global generators."""

    def __init__(self, size):
        self.size, self.sampler = size, None
        self.drawn = np.random.default_rng(5)

    def __len__(self):
        return self.size

    def __iter__(self):
        while True:
            yield int(self.drawn.integers(self.size)) if random.random() < 0.5 else 0


DATASETS = dict(plain=Noisy, subset=lambda: Subset(Noisy(20), range(5, 15)), batched=Batched)
SAMPLERS = dict(
    default=lambda data, seed: DefaultSampler(data, seed=seed),
    infinite=lambda data, seed: InfiniteSampler(data, seed=seed),
    strange=lambda data, seed: Strange(len(data)),
)


def batch_sampler(data, sampler, seed, size):
    if sampler == 'sources':
        data.source_sizes = [4, 6]
        source = SimpleNamespace(dataset=data, seed=seed)
        return MultiSourceBatchSampler(source, batch_size=1, mu=size - 1)
    return BatchSampler(SAMPLERS[sampler](data, seed), size, drop_last=False)


def loader(dataset='plain', sampler='default', seed=0, rank=0, workers=0, persistent=False, size=4):
    data = DATASETS[dataset]()
    made = DataLoader(
        data,
        batch_sampler=batch_sampler(data, sampler, seed, size),
        num_workers=workers,
        persistent_workers=persistent,
        collate_fn=list,
    )
    return KeyedLoader.of(made, seed, rank)


def batches(first=0, count=8, **options):
    return list(itertools.islice(loader(**options).batches(first), count))


@pytest.mark.parametrize('workers, persistent', [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize('sampler', [*SAMPLERS, 'sources'])
@pytest.mark.parametrize('dataset', DATASETS)
def test_a_run_goes_on_with_the_batch_that_would_have_come(dataset, sampler, workers, persistent):
    whole = batches(dataset=dataset, sampler=sampler)
    assert len({str(batch) for batch in whole}) == len(whole)
    options = dict(dataset=dataset, sampler=sampler, workers=workers, persistent=persistent)
    for first in (0, 1, 2, 3, 5) if workers == 0 else (4,):
        assert batches(first, 8 - first, **options) == whole[first:]


def test_epochs_begin_in_the_middle_and_the_next_at_their_start():
    def epoch(keyed, begin):
        keyed.begin = begin
        return list(keyed)

    whole = batches(count=6)
    keyed = loader(workers=2, persistent=True)
    assert epoch(keyed, (0, 2)) == whole[2:3]
    assert epoch(keyed, (1, 0)) == whole[3:]
    assert epoch(keyed, (1, 3)) == []


def test_views_depend_on_seed_rank_and_pass_and_the_order_not_on_the_rank():
    whole = batches()

    def order(found):
        return [[item[0] for item in batch] for batch in found]

    assert batches(seed=1) != whole
    assert batches(rank=1) != whole
    assert order(batches(rank=1)) == order(whole)


@pytest.mark.parametrize('workers, persistent', [(0, False), (1, False), (1, True)])
@pytest.mark.parametrize('sampler', ['default', 'infinite', 'sources'])
def test_whoever_else_reads_the_data_changes_nothing(sampler, workers, persistent):
    keyed = loader(sampler=sampler, workers=workers, persistent=persistent)
    found, others = [], []
    for batch in itertools.islice(keyed.batches(0), 5):
        found.append(batch)
        others.append(list(itertools.islice(keyed, 2)))
    assert found == batches(sampler=sampler, count=5)
    again = loader(sampler=sampler)
    assert next(again.batches(4)) == found[4]
    assert list(itertools.islice(again, 2)) == others[4]


@pytest.mark.parametrize('shuffle', [True, False])
def test_infinite_sampler_goes_through_all_images_in_each_turn(shuffle):
    data = Noisy(10)
    made = DataLoader(data, batch_size=5, sampler=InfiniteSampler(data, shuffle), collate_fn=list)
    keyed = KeyedLoader.of(made, 0, 0)
    found = [item[0] for batch in itertools.islice(keyed.batches(0), 4) for item in batch]
    turns = found[:10], found[10:]
    assert all(sorted(turn) == list(range(10)) for turn in turns)
    assert (turns[0] == turns[1]) is not shuffle


@pytest.mark.parametrize('sampler', ['default', 'infinite', 'sources'])
def test_a_place_far_on_is_reached_at_once(sampler):
    begun = time.perf_counter()
    assert len(batches(2**30, 2, sampler=sampler)) == 2
    assert time.perf_counter() - begun < 1


class Notes:
    """A worker_init_fn that changes the dataset of its worker."""

    def __call__(self, worker):
        dataset = get_worker_info().dataset
        assert type(dataset) is Noisy
        dataset.size = 77


def test_dataset_and_samplers_stay_what_they_are():
    data = Noisy()
    made = DataLoader(data, batch_size=4, shuffle=True, num_workers=1, worker_init_fn=Notes())
    keyed = KeyedLoader.of(made, 0, 0)
    next(keyed.batches(0))
    assert keyed.dataset is data and type(data) is Noisy
    assert keyed.batch_sampler is made.batch_sampler and keyed.sampler is made.sampler
    assert (keyed.batch_size, len(keyed), keyed.drop_last) == (4, 3, False)
    assert KeyedLoader.of(DataLoader(data, batch_size=None), 0, 0).batch_size is None
