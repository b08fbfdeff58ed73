# SPDX-License-Identifier: Apache-2.0
"""Another update of a teacher is noticed by its effect."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from se_mm.smoothing import TeacherFault
from se_mm.smoothing.guards import Watch
from se_mm.smoothing.guards.watch import NUMBERS, equal
from se_mm.smoothing.units import TensorPair


def pairs_of(*values):
    """Pairs of a zero teacher and a student of ones."""
    return {
        f'p{i}': TensorPair(f'p{i}', torch.full((4, 50), value), torch.ones(4, 50))
        for i, value in enumerate(values)
    }


@given(st.floats(0.01, 1))
def test_promise_9_what_changed_most_is_named_with_how_far(share):
    pairs = pairs_of(0.0, 0.0, 0.0)
    watch = Watch()
    watch.leave(pairs.values())
    assert watch.changed(pairs) is None
    pairs['p1'].teacher.lerp_(pairs['p1'].student, share)
    pairs['p2'].teacher.lerp_(pairs['p2'].student, share / 2)
    name, count = watch.changed(pairs)
    assert count == 2
    assert name == f"'p1' ({share:.2g} of the way to its student)"


def test_promise_9_the_error_is_one_line_that_says_which_tensors_and_how_far():
    pairs = pairs_of(0.0, 0.0)
    watch = Watch()
    watch.leave(pairs.values())
    watch.check(pairs, 3)
    for pair in pairs.values():
        pair.teacher.fill_(0.5)
    with pytest.raises(TeacherFault) as error:
        watch.check(pairs, 3)
    said = str(error.value)
    assert 'only one hook may update the teacher' in said and 'between updates 3 and 4' in said
    assert 'p' in said and '0.5 of the way' in said and 'and 1 others' in said
    assert '\n' not in said


def test_values_that_are_not_finite_are_compared_by_what_they_are():
    pairs = {'p': TensorPair('p', torch.tensor([math.nan, math.inf, 1.0]), torch.ones(3))}
    watch = Watch()
    watch.leave(pairs.values())
    assert watch.changed(pairs) is None
    pairs['p'].teacher[0] = 0
    assert watch.changed(pairs) is not None


def test_without_a_state_nothing_has_changed_and_new_tensors_are_no_change():
    pairs = pairs_of(0.0)
    watch = Watch()
    assert watch.changed(pairs) is None
    watch.leave(pairs.values())
    assert watch.changed({}) is None
    assert watch.changed({'p0': TensorPair('p0', torch.ones(3), torch.ones(3))}) is None


def test_few_numbers_are_kept_of_a_large_teacher():
    watch = Watch()
    watch.leave([TensorPair('p', torch.zeros(1000, 1000), torch.ones(1000, 1000))])
    assert watch._left['p'].untyped_storage().nbytes() == 4 * NUMBERS


def test_teachers_that_equal_their_students_are_told():
    assert equal(pairs_of(1.0, 1.0).values())
    assert not equal(pairs_of(1.0, 0.0).values())
    half = TensorPair('p', torch.ones(3, dtype=torch.bfloat16), torch.ones(3))
    assert equal([half])


def test_docstring_example_holds():
    import doctest
    import importlib

    watch = importlib.import_module('se_mm.smoothing.guards.watch')
    assert doctest.testmod(watch).failed == 0
