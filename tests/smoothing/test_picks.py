# SPDX-License-Identifier: Apache-2.0
"""Picks are a pure function of (seed, update step, unit), and as random as they should be."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from se_mm.smoothing import picks

CPU = torch.device('cpu')
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


def draw_elements(first, count, seed, step, keep_prob, device=CPU):
    """The picks of one tensor's elements."""
    return picks.Elements([(first, count)], device).draw(seed, step, keep_prob)[0]


def names_to_keys(count):
    return torch.cat(
        [picks.run_of_keys(picks.unit_key(f'layer{i}.weight'), 1) for i in range(count)]
    )


def taken_table(keep_prob, units=200, steps=500, seed=0):
    """Bools of (step, unit), True where taken over."""
    keys = names_to_keys(units)
    return torch.stack([picks.draw(keys, seed, step, keep_prob) for step in range(steps)]).numpy()


def test_hash_gives_the_published_stream_of_splitmix64():
    # The stream of seed 1234567, as in the test vectors of SplitMix64's reference implementation.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    keys = picks.run_of_keys(1234567 + picks.INCREMENT, 5)
    assert [number % 2**64 for number in picks.mix_(keys).tolist()] == expected
    assert picks.mix((1234567 + picks.INCREMENT) % 2**64) == expected[0]


@given(st.integers(0, 2**63), st.integers(0, 10**7), st.floats(0, 1, exclude_max=True))
def test_promise_1_a_pick_depends_on_seed_step_and_unit_alone(seed, step, keep_prob):
    keys = names_to_keys(20)
    together = picks.draw(keys, seed, step, keep_prob)
    order = torch.randperm(20)
    alone = torch.cat([picks.draw(keys[i : i + 1], seed, step, keep_prob) for i in order])
    assert torch.equal(together[order], alone)


def test_promise_1_global_random_generators_are_left_untouched():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    picks.draw(names_to_keys(50), 3, 5, 0.5)
    draw_elements(7, 100_000, 3, 5, 0.5, CPU)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


@needs_cuda
def test_promise_1_picks_are_the_same_on_cpu_and_gpu():
    keys = names_to_keys(500)
    for step in range(20):
        on_gpu = picks.draw(keys.cuda(), 11, step, 0.7).cpu()
        assert torch.equal(on_gpu, picks.draw(keys, 11, step, 0.7))
    on_gpu = draw_elements(5, 200_000, 11, 0, 0.7, torch.device('cuda')).cpu()
    assert torch.equal(on_gpu, draw_elements(5, 200_000, 11, 0, 0.7, CPU))


def test_two_elements_have_the_two_halves_of_a_hash_in_every_chunk():
    count = 3 * picks.at_a_time(CPU) + 17
    hashes = picks.mix_(picks.run_of_keys(99, (count + 1) // 2) + picks.signed(picks.stream(1, 2)))
    lower = ((hashes + 2**31) % 2**32) - 2**31
    halves = torch.stack([lower, hashes >> 32], 1).view(-1)[:count]
    taken = halves >= picks.threshold(0.4)
    assert torch.equal(draw_elements(99, count, 1, 2, 0.4, CPU), taken)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 50)), min_size=1), st.data())
def test_elements_of_many_tensors_are_drawn_as_those_of_each(runs, data):
    room = data.draw(st.sampled_from([2, 6, 40, 10_000]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picks, 'at_a_time', lambda device: room)
        together = picks.Elements(runs, CPU).draw(3, 4, 0.5)
    assert len(together) == len(runs)
    for (first, count), drawn in zip(runs, together, strict=True):
        assert torch.equal(drawn, draw_elements(first, count, 3, 4, 0.5))


@pytest.mark.parametrize('keep_prob', [0.01, 0.3, 0.5, 0.7, 0.99, 0.9999])
def test_share_of_kept_units_is_keep_prob(keep_prob):
    kept = ~draw_elements(picks.unit_key('x'), 2_000_000, 0, 0, keep_prob, CPU)
    result = stats.binomtest(int(kept.sum()), kept.numel(), keep_prob)
    assert result.pvalue > 1e-4


def test_keep_prob_zero_takes_everything():
    assert draw_elements(1, 100_000, 0, 0, 0.0, CPU).all()


def test_largest_keep_prob_keeps_almost_everything():
    keep_prob = math.nextafter(1, 0)
    assert not draw_elements(1, 100_000, 0, 0, keep_prob, CPU).any()


@pytest.mark.parametrize('keep_prob', [0.5, 0.7, 0.9])
def test_age_of_a_unit_is_geometric(keep_prob):
    table = taken_table(keep_prob, units=400, steps=400)
    last = [np.flatnonzero(column)[-1] for column in table.T]
    ages = len(table) - 1 - np.array(last)
    longest = int(np.quantile(ages, 0.98))
    seen = np.bincount(np.minimum(ages, longest), minlength=longest + 1)
    law = (1 - keep_prob) * keep_prob ** np.arange(longest + 1)
    law[-1] = keep_prob**longest
    assert stats.chisquare(seen, law * len(ages)).pvalue > 1e-3


@pytest.mark.parametrize('axis', ['units', 'steps', 'seeds', 'channels', 'elements'])
def test_picks_are_uncorrelated(axis):
    count, draws = 60, 4000
    if axis == 'channels':
        keys = picks.run_of_keys(picks.unit_key('conv'), count)
        table = torch.stack([picks.draw(keys, 0, step, 0.5) for step in range(draws)])
    elif axis == 'elements':
        key = picks.unit_key('conv')
        table = torch.stack([draw_elements(key, count, 0, step, 0.5) for step in range(draws)])
    elif axis == 'units':
        table = torch.from_numpy(taken_table(0.5, units=count, steps=draws))
    else:
        keys = names_to_keys(draws)
        change = (lambda i: (0, i)) if axis == 'steps' else (lambda i: (i, 0))
        table = torch.stack([picks.draw(keys, *change(i), 0.5) for i in range(count)]).T
    correlation = np.corrcoef(table.numpy().T.astype(float))
    off_diagonal = correlation[np.triu_indices(count, 1)] * math.sqrt(draws)
    # The largest of n independent normal deviates is rarely beyond this.
    bound = stats.norm.isf(1e-4 / len(off_diagonal))
    assert np.abs(off_diagonal).max() < bound


def test_rank_seeds_differ_and_rank_0_keeps_its_own():
    seeds = [picks.rank_seed(42, rank) for rank in range(64)]
    assert seeds[0] == 42
    assert len(set(seeds)) == 64
