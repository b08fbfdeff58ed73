# SPDX-License-Identifier: Apache-2.0
"""Differences over paired seeds, and their intervals."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.studies.comparison import MIN_SEEDS, bootstrap_interval, notes, paired_difference

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


def by_seed(values):
    return pd.Series(values, dtype=float)


def test_only_seeds_that_both_have_are_compared():
    found = paired_difference(by_seed({0: 1.0, 1: 5.0, 7: 9.0}), by_seed({1: 2.0, 7: 8.0, 9: 0.0}))
    assert found['difference'] == 2.0 and found['verdict'] == '2 seeds cannot tell'


@given(VALUES)
@settings(max_examples=25, deadline=None)
def test_interval_lies_among_the_differences_and_turns_with_its_sign(values):
    zeros = by_seed([0.0] * len(values))
    found = paired_difference(by_seed(values), zeros)
    low, high = found['low'], found['high']
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert paired_difference(zeros, by_seed(values))['difference'] == -found['difference']
    if len(values) < MIN_SEEDS:
        assert found['verdict'] == f'{len(values)} seeds cannot tell'
    elif low == high == 0:
        assert found['verdict'] == 'equal'
    elif low <= 0 <= high:
        assert found['verdict'] == 'cannot tell'
    else:
        assert found['verdict'] == ('higher' if low > 0 else 'lower')


def test_so_few_seeds_that_they_may_all_agree_by_chance_tell_nothing():
    # Each difference has one of two signs, so all of n agree once in 2^(n - 1) times.
    assert 2.0 ** (1 - MIN_SEEDS) < 0.05 < 2.0 ** (2 - MIN_SEEDS)
    for seeds in range(1, 10):
        rising = by_seed(range(100, 100 + seeds))
        verdict = paired_difference(rising, by_seed([0.0] * seeds))['verdict']
        assert (verdict == 'higher') == (seeds >= 6)


def test_interval_of_ten_normal_values_covers_their_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(generator.normal(3.0, 2.0, size=10))
        covered += low <= 3.0 <= high
    assert 0.85 <= covered / 300 <= 0.96


def test_what_differs_alike_for_all_seeds_has_an_interval_without_width():
    found = paired_difference(by_seed([2.0] * 6), by_seed([1.5] * 6))
    assert (found['low'], found['high'], found['verdict']) == (0.5, 0.5, 'higher')
    same = by_seed([2.0, 3.0] * 3)
    assert paired_difference(same, same)['verdict'] == 'equal'


@pytest.mark.parametrize('other, count', [({4: 0.0}, 1), ({5: 0.0}, 0)])
def test_fewer_than_two_seeds_have_no_interval(other, count):
    found = paired_difference(by_seed({4: 1.0}), by_seed(other))
    assert math.isnan(found['low']) and math.isnan(found['high'])
    assert found['verdict'] == f'{count} seeds cannot tell'
    assert math.isnan(found['difference']) == (not count)


def test_notes_say_what_is_missing_and_how_far_the_seeds_go():
    rows = pd.DataFrame({'cell': ['TMA', 'SE']})
    rows['values'] = [{0: 1.0, 1: 2.0}, {0: 1.0}]
    assert list(notes(rows, [0, 1])) == [
        'Bootstrap intervals over 2 seeds are too narrow, and fewer than 6 decide nothing; use 10 '
        'seeds.',
        'Missing runs of SE: seed 1.',
    ]
    assert 'No intervals with a single seed' in next(notes(rows, [0]))
