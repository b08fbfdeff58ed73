# SPDX-License-Identifier: Apache-2.0
"""Differences over paired seeds, and their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.evaluation.paired import MIN_PAIRS, bootstrap_interval, paired_difference

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


def by_seed(values):
    return dict(enumerate(values))


def test_only_seeds_that_both_have_are_compared():
    found = paired_difference({0: 1.0, 1: 5.0, 7: 9.0}, {1: 2.0, 7: 8.0, 9: 0.0})
    assert found.values == {1: 3.0, 7: 1.0}
    assert found.mean == 2.0


@given(VALUES)
@settings(max_examples=25, deadline=None)
def test_interval_lies_among_the_differences_and_turns_with_its_sign(values):
    zeros = by_seed([0.0] * len(values))
    found = paired_difference(by_seed(values), zeros)
    low, high = found.interval
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert paired_difference(zeros, by_seed(values)).mean == -found.mean
    if low == high == 0:
        assert found.verdict == 'equal'
    elif low <= 0 <= high:
        assert found.verdict == 'cannot tell'
    elif len(values) < MIN_PAIRS:
        assert found.verdict == f'{len(values)} seeds cannot tell'
    else:
        assert found.verdict == ('higher' if low > 0 else 'lower')


def test_so_few_seeds_that_they_may_all_agree_by_chance_tell_nothing():
    # Each difference has one of two signs, so all of n agree once in 2^(n - 1) times.
    assert 2.0 ** (1 - MIN_PAIRS) < 0.05 < 2.0 ** (2 - MIN_PAIRS)


def test_interval_of_ten_normal_values_covers_their_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(generator.normal(3.0, 2.0, size=10))
        covered += low <= 3.0 <= high
    assert 0.85 <= covered / 300 <= 0.96


def test_what_differs_alike_for_all_seeds_has_an_interval_without_width():
    found = paired_difference(by_seed([2.0] * 6), by_seed([1.5] * 6))
    assert found.interval == (0.5, 0.5) and found.verdict == 'higher'
    assert paired_difference({0: 2.0, 1: 3.0}, {0: 2.0, 1: 3.0}).verdict == 'equal'


@pytest.mark.parametrize(
    'one, other, verdict',
    [({4: 1.0}, {4: 0.0}, 'one seed cannot tell'), ({4: 1.0}, {5: 0.0}, 'no seed in common')],
)
def test_fewer_than_two_seeds_have_no_interval(one, other, verdict):
    found = paired_difference(one, other)
    assert found.interval is None and found.verdict == verdict
    assert math.isnan(found.mean) == (not found.values)
