# SPDX-License-Identifier: Apache-2.0
"""Checks around the updates: what is trained must be finite, and the ranks' teachers equal."""

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.smoothing import Settings, Smoother, TeacherFault
from se_mm.smoothing.guards import Guard

module = importlib.import_module('se_mm.smoothing.guards.guard')


class Net(torch.nn.Module):
    """A weight, a frozen weight, a mask and a batch norm."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer('mask', torch.tensor([0, -math.inf]))
        self.norm = torch.nn.BatchNorm1d(3)


def guard_of(skipped=None, **options):
    teacher, student = Net(), Net()
    smoother = Smoother(teacher, Settings(0.5, **options))
    smoother.bind(student)
    return Guard(smoother, skipped), teacher, student


def test_what_is_trained_must_be_finite():
    guard, teacher, student = guard_of(check_finite=1)
    assert guard.allows(0, student)
    guard.check_saved(0)
    student.weight.data[1] = math.nan
    said = r"the student must be finite, but at update 7 its tensor 'weight' is not"
    with pytest.raises(TeacherFault, match=said) as error:
        guard.allows(7, student)
    assert '\n' not in str(error.value)
    with pytest.raises(TeacherFault, match='the student must be finite'):
        guard.check_saved(7)
    teacher.weight.data[1] = math.inf
    with pytest.raises(TeacherFault, match=r"the teacher must be finite.*'weight' is not"):
        guard.check_saved(7)


@pytest.mark.parametrize('name', ['norm.running_mean', 'norm.running_var'])
def test_running_statistics_must_be_finite(name):
    guard, _, student = guard_of(check_finite=1)
    student.get_buffer(name)[2] = math.inf
    with pytest.raises(TeacherFault, match=f"its tensor '{name}' is not"):
        guard.allows(0, student)


def test_masks_and_frozen_tensors_may_be_infinite_from_the_start_or_later():
    guard, teacher, student = guard_of(check_finite=1)
    for _ in range(2):
        assert guard.allows(0, student)
        guard.check_saved(0)
        for net in (teacher, student):
            net.mask[0] = math.inf
            net.frozen.data[0] = -math.inf


def test_several_damaged_tensors_are_counted():
    guard, _, student = guard_of(check_finite=1)
    student.weight.data[0] = student.norm.weight.data[0] = student.norm.bias.data[0] = math.nan
    with pytest.raises(TeacherFault, match='is not, and so are 2 others'):
        guard.allows(0, student)


def test_trained_weights_that_are_damaged_from_the_start_are_noticed():
    guard, _, student = guard_of(check_finite=100)
    student.weight.data[0] = math.inf
    with pytest.raises(TeacherFault):
        guard.allows(0, student)


def test_promise_6_student_that_was_replaced_is_the_one_that_is_checked():
    guard, _, student = guard_of(check_finite=1)
    student.weight = torch.nn.Parameter(torch.full((3,), math.nan))
    with pytest.raises(TeacherFault, match="'weight' is not"):
        guard.allows(3, student)


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 30))
def test_looks_are_made_at_the_first_and_at_every_nth_opportunity(every, opportunities):
    guard, _, student = guard_of(check_finite=every, skipped=lambda *told: None)
    student.weight.data[0] = math.nan
    refused = [n for n in range(1, opportunities + 1) if not guard.allows(n - 1, student)]
    assert refused == [n for n in range(1, opportunities + 1) if n == 1 or n % every == 0]


def test_an_update_that_is_left_out_is_told_of():
    told = []
    guard, _, student = guard_of(check_finite=1, skipped=lambda *what: told.append(what))
    student.weight.data[0] = math.nan
    assert not guard.allows(3, student)
    student.weight.data[0] = 1
    assert guard.allows(4, student)
    student.weight.data[0] = math.inf
    assert not guard.allows(5, student)
    assert told == [(['weight'], 3, 1), (['weight'], 5, 2)]
    guard.check_saved(5)  # The teacher took none of it over.


def test_never_means_never():
    guard, _, student = guard_of(check_finite=0)
    student.weight.data[0] = math.nan
    assert guard.allows(0, student) and guard.allows(100, student)
    guard.check_saved(100)
    guard.compare(100)


def test_teachers_are_compared_at_every_nth_update_and_a_difference_is_named(monkeypatch):
    compared = []
    monkeypatch.setattr(module, 'world_size', lambda: 2)
    monkeypatch.setattr(module, 'differing', lambda tensors: compared.append(dict(tensors)) or [])
    guard, teacher, _ = guard_of(check_teachers=3)
    for step in range(1, 10):
        guard.compare(step)
    assert len(compared) == 3
    assert compared[0].keys() == dict(teacher.named_parameters()).keys()
    monkeypatch.setattr(module, 'differing', lambda tensors: [('weight', 1), ('norm.bias', 3)])
    said = "at update 6 tensor 'weight' of rank 1 differs from that of rank 0, and so do 1 others"
    with pytest.raises(TeacherFault, match=said):
        guard.compare(6)


def test_averages_in_float32_are_compared_too(monkeypatch):
    compared = []
    monkeypatch.setattr(module, 'world_size', lambda: 2)
    monkeypatch.setattr(module, 'differing', lambda tensors: compared.append(tensors) or [])
    teacher, student = torch.nn.Linear(2, 2).bfloat16(), torch.nn.Linear(2, 2).bfloat16()
    smoother = Smoother(teacher, Settings(0.5, 0.1, check_teachers=1))
    smoother.update(student, 1, 9, seed=0)
    Guard(smoother).compare(2)
    assert sorted(str(tensor.dtype) for _, tensor in compared[0]) == sorted(
        ['torch.bfloat16', 'torch.float32'] * 2
    )
