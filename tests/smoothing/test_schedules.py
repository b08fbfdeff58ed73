# SPDX-License-Identifier: Apache-2.0
"""Schedules are pure functions of the step, and what a config says of them is checked."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from se_mm.smoothing import OptionError, keep_prob_schedule, momentum_schedule
from se_mm.smoothing.schedules import Schedule, running_mean

TABLE = [
    # value in the config, step, total, number in force
    (0.3, 0, 10, 0.3),
    (0.3, 10, 10, 0.3),
    (dict(type='constant', value=0.3), 7, 10, 0.3),
    (dict(type='linear', start=0.2, end=0.6), 0, 8, 0.2),
    (dict(type='linear', start=0.2, end=0.6), 2, 8, 0.3),
    (dict(type='linear', start=0.2, end=0.6), 8, 8, 0.6),
    (dict(type='linear', start=0.2, end=0.6), 99, 8, 0.6),
    (dict(type='cosine', start=0.2, end=0.6), 0, 8, 0.2),
    (dict(type='cosine', start=0.2, end=0.6), 4, 8, 0.4),
    (dict(type='cosine', start=0.2, end=0.6), 8, 8, 0.6),
    (dict(type='cosine', start=0.2, end=0.6), 99, 8, 0.6),
    (dict(type='cosine', start=0.01, end=0), 2, 8, 0.01 * (1 + math.sqrt(0.5)) / 2),
]


@pytest.mark.parametrize('value, step, total, expected', TABLE)
@pytest.mark.parametrize('build', [keep_prob_schedule, momentum_schedule])
def test_schedule_has_the_tabled_value(build, value, step, total, expected):
    assert build('key', value)(step, total) == pytest.approx(expected)


@pytest.mark.parametrize(
    'value, step, expected',
    [
        (dict(type='annealed', value=0.01, gamma=100), 0, 1.0),
        (dict(type='annealed', value=0.01, gamma=100), 100, 0.5),
        (dict(type='annealed', value=0.01, gamma=100), 10**6, 0.01),
        (dict(type='exp_annealed', value=0.01, gamma=50), 49, 0.99 / math.e + 0.01),
        (dict(type='exp_annealed', value=0.01, gamma=50), 10**6, 0.01),
    ],
)
def test_annealed_momentum_has_the_tabled_value(value, step, expected):
    assert momentum_schedule('momentum', value)(step, 10) == pytest.approx(expected)


def test_running_mean_weighs_all_students_alike():
    students = [3.0, 1.0, 4.0, 1.0, 5.0]
    teacher = students[0]
    for step, student in enumerate(students):
        teacher += (student - teacher) * running_mean(step, 5, interval=1)
    assert teacher == pytest.approx(sum(students) / 5)


@given(
    st.floats(0, 1),
    st.floats(0, 1, exclude_min=True),
    st.integers(0, 1000),
    st.integers(1, 1000),
    st.sampled_from(['linear', 'cosine']),
)
def test_schedule_stays_between_its_ends(end, start, step, total, kind):
    value = momentum_schedule('momentum', dict(type=kind, start=start, end=end))(step, total)
    slack = 1e-12
    assert min(start, end) - slack <= value <= max(start, end) + slack


@pytest.mark.parametrize(
    'build, value, message',
    [
        (keep_prob_schedule, 1.0, r'key must be a number in \[0, 1\), got 1.0'),
        (keep_prob_schedule, -0.1, r'key must be a number in \[0, 1\), got -0.1'),
        (keep_prob_schedule, math.nan, r'key must be a number in \[0, 1\), got nan'),
        (keep_prob_schedule, math.inf, r'key must be a number in \[0, 1\), got inf'),
        (keep_prob_schedule, '0.7', r"key must be a number in \[0, 1\), got '0.7'"),
        (keep_prob_schedule, True, r'key must be a number .*, got True'),
        (keep_prob_schedule, None, r'key must be a number .*, got None'),
        (keep_prob_schedule, [0.7], r'key must be a number .*, got \[0.7\]'),
        (
            keep_prob_schedule,
            dict(type='annealed', value=0.5, gamma=3),
            "key.type must be one of .*, got 'annealed'",
        ),
        (keep_prob_schedule, dict(type='cosin', start=0, end=0.5), "Did you mean 'cosine'"),
        (keep_prob_schedule, dict(start=0, end=0.5), 'key.type must be one of .*, got None'),
        (keep_prob_schedule, dict(type='linear', start=0.1), 'key.end must be a number .* None'),
        (
            keep_prob_schedule,
            dict(type='linear', start=0.1, end=1),
            r'key.end must be a number in \[0, 1\), got 1',
        ),
        (keep_prob_schedule, dict(type='linear', strat=0, end=0.5), "Did you mean 'start'"),
        (momentum_schedule, 0, r'key must be a number in \(0, 1\], got 0'),
        (momentum_schedule, 1.01, r'key must be a number in \(0, 1\], got 1.01'),
        (momentum_schedule, math.nan, r'key must be a number in .*, got nan'),
        (momentum_schedule, dict(type='linear', start=0, end=0), 'key must not be 0 throughout'),
        (
            momentum_schedule,
            dict(type='annealed', value=0.1, gamma=0),
            r'key.gamma must be a number in \(0, inf\], got 0',
        ),
    ],
)
def test_wrong_schedule_is_refused_by_one_line_naming_key_value_and_range(build, value, message):
    with pytest.raises(OptionError, match=message) as error:
        build('key', value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'value',
    [
        0.3,
        dict(type='linear', start=0.2, end=0.6),
        dict(type='cosine', start=0.01, end=0.0),
        dict(type='annealed', value=0.01, gamma=100.0),
    ],
)
def test_plain_form_of_a_schedule_is_what_it_is_made_from(value):
    schedule = momentum_schedule('momentum', value)
    assert schedule.plain() == value
    assert momentum_schedule('momentum', schedule.plain()) == schedule
    assert momentum_schedule('momentum', schedule) is schedule


def test_schedule_shows_itself_as_a_config_would():
    assert str(keep_prob_schedule('keep_prob', 0.7)) == '0.7'
    schedule = momentum_schedule('momentum', dict(type='cosine', start=0.01, end=0))
    assert str(schedule) == 'cosine(start=0.01, end=0)'
    assert isinstance(schedule, Schedule)
