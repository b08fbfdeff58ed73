# SPDX-License-Identifier: Apache-2.0
"""A look at tensors that finds every infinity and NaN, and takes nothing else for one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from se_mm.smoothing.finite import FiniteCheck
from se_mm.smoothing.guard import Guard, TeacherFault

from se_mm.smoothing import Rule, Rules, Smoother, keep_prob_schedule, pair_modules

FLOATING = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
BAD = [math.inf, -math.inf, math.nan]


@settings(deadline=None)
@given(st.data())
def test_what_is_not_finite_is_named_wherever_it_is(data):
    tensors, expected = [], []
    for index in range(data.draw(st.integers(1, 6))):
        shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
        tensor = torch.zeros(shape, dtype=data.draw(st.sampled_from(FLOATING)))
        if tensor.numel() and data.draw(st.booleans()):
            place = data.draw(st.integers(0, tensor.numel() - 1))
            tensor.view(-1)[place] = data.draw(st.sampled_from(BAD))
            expected.append(str(index))
        if data.draw(st.booleans()):
            tensor = tensor.transpose(0, -1) if tensor.dim() > 1 else tensor
        tensors.append((str(index), tensor))
    assert sorted(FiniteCheck(tensors).not_finite()) == expected


@pytest.mark.parametrize('dtype', FLOATING, ids=str)
def test_the_largest_numbers_are_finite(dtype):
    tensor = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    tensor[::2] *= -1
    assert FiniteCheck([('large', tensor)]).not_finite() == []


def test_integers_are_not_looked_at_and_names_can_be_left_out():
    tensors = [
        ('count', torch.tensor(3)),
        ('mask', torch.tensor([-math.inf])),
        ('weight', torch.ones(2)),
    ]
    check = FiniteCheck(tensors)
    assert check.names == ['mask', 'weight']
    assert check.not_finite() == ['mask']
    assert check.without(['mask']).not_finite() == []
    assert FiniteCheck([]).not_finite() == []


def test_it_reads_the_values_of_the_moment():
    weight = torch.nn.Parameter(torch.ones(2))
    check = FiniteCheck([('weight', weight)])
    weight.data = torch.full((2,), math.nan)
    assert check.not_finite() == ['weight']


class Net(torch.nn.Module):
    """A weight and a mask."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.register_buffer('mask', torch.tensor([0, -math.inf]))


def guard_of(**options):
    teacher, student = Net(), Net()
    rule = Rule(keep_prob_schedule('keep_prob', 0.5), None, False, 'tensor')
    smoother = Smoother(*pair_modules(teacher, student), Rules(rule, {}), 'copy')
    return Guard(smoother, **options), teacher, student


def test_masks_that_are_not_finite_from_the_start_are_left_out():
    guard, teacher, student = guard_of(check_finite=1)
    guard.start()
    assert guard.exempt == ['mask']
    assert guard.allows(0)
    guard.check_saved(0)
    student.weight.data[1] = math.nan
    with pytest.raises(TeacherFault, match=r"student tensor 'weight' is not finite at update 7"):
        guard.allows(7)
    with pytest.raises(TeacherFault, match='student'):
        guard.check_saved(7)
    teacher.weight.data[1] = math.inf
    with pytest.raises(TeacherFault, match=r"teacher tensor 'weight' is not finite"):
        guard.check_saved(7)


def test_trained_weights_that_are_damaged_from_the_start_are_not_left_out():
    guard, _, student = guard_of(check_finite=100)
    student.weight.data[0] = math.inf
    guard.start()
    assert guard.exempt == ['mask']
    with pytest.raises(TeacherFault):
        guard.allows(0)


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 30))
def test_looks_are_made_at_the_first_and_at_every_nth_opportunity(every, opportunities):
    guard, _, student = guard_of(check_finite=every, skipped=lambda *told: None)
    guard.start()
    student.weight.data[0] = math.nan
    refused = [n for n in range(1, opportunities + 1) if not guard.allows(n - 1)]
    assert refused == [n for n in range(1, opportunities + 1) if n == 1 or n % every == 0]


def test_an_update_that_is_left_out_is_told_of():
    told = []
    guard, _, student = guard_of(check_finite=1, skipped=lambda *what: told.append(what))
    guard.start()
    student.weight.data[0] = math.nan
    assert not guard.allows(3)
    student.weight.data[0] = 1
    assert guard.allows(4)
    student.weight.data[0] = math.inf
    assert not guard.allows(5)
    assert told == [(['weight'], 3, 1), (['weight'], 5, 2)]
    guard.check_saved(5)  # The teacher took none of it over.


def test_never_means_never():
    guard, _, student = guard_of(check_finite=0)
    student.weight.data[0] = math.nan
    guard.start()
    assert guard.allows(0) and guard.allows(100)
    guard.check_saved(100)
    guard.compare(100)
