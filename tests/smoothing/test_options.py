# SPDX-License-Identifier: Apache-2.0
"""Checks of options say in one line what is wrong and what is right."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from se_mm.smoothing.options import (
    OptionError,
    check_choice,
    check_count,
    check_flag,
    check_keys,
    check_number,
    did_you_mean,
)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_number_is_accepted_exactly_inside_its_interval(value):
    if 0 <= value < 1:
        assert check_number('p', value, 0, 1, open_high=True) == value
    else:
        with pytest.raises(OptionError):
            check_number('p', value, 0, 1, open_high=True)


@pytest.mark.parametrize('value', ['1', None, [1], {}, True, 1j, math.nan])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(OptionError, match='p must be a number'):
        check_number('p', value, 0, 1)


def test_message_shows_which_ends_are_open():
    with pytest.raises(OptionError, match=r'm must be a number in \(0, 1\], got 2'):
        check_number('m', 2, 0, 1, open_low=True)
    with pytest.raises(OptionError, match=r'm must be a number in \[0, 1\), got 2'):
        check_number('m', 2, 0, 1, open_high=True)


@pytest.mark.parametrize('value', [0, -1, 1.5, True, '3', None])
def test_count_is_a_whole_number_from_its_least(value):
    with pytest.raises(OptionError, match=r'interval must be an integer >= 1, got'):
        check_count('interval', value, 1)
    assert check_count('interval', 7, 1) == 7


@pytest.mark.parametrize('value', [0, 1, 'True', None])
def test_flag_is_a_bool(value):
    with pytest.raises(OptionError, match='match_horizon must be True or False, got'):
        check_flag('match_horizon', value)
    assert check_flag('match_horizon', True) is True


def test_choice_names_all_and_the_nearest():
    with pytest.raises(
        OptionError, match=r"one of 'copy', 'skip', got 'coppy'. Did you mean 'copy'"
    ):
        check_choice('buffers', 'coppy', ['copy', 'skip'])
    with pytest.raises(OptionError):
        check_choice('buffers', ['copy'], ['copy', 'skip'])


def test_unknown_key_names_all_and_the_nearest():
    with pytest.raises(OptionError, match=r"SETMAHook has no option 'momentm'.*'momentum'"):
        check_keys('SETMAHook', ['momentm'], ['keep_prob', 'momentum'])


def test_no_hint_where_nothing_is_near():
    assert did_you_mean('zzz', ['copy', 'skip']) == ''
