# SPDX-License-Identifier: Apache-2.0
"""An update writes the picked units, exactly, and nothing else."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from se_mm.smoothing import GRANULARITIES
from se_mm.smoothing.units import TensorPair, Units
from se_mm.smoothing.update import draw_picks, update

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def random_pairs(seed=0, teacher_dtype=torch.float32, student_dtype=None, scale=1.0):
    """Pairs of several shapes, also empty and scalar."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3, 3, 3), (4,), (6, 4), (), (1, 5, 2), (7,), (0, 3)]

    def tensor(shape, dtype):
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    return [
        TensorPair(
            f'block{i // 2}.p{i}',
            tensor(s, teacher_dtype),
            tensor(s, student_dtype or teacher_dtype),
        )
        for i, s in enumerate(shapes)
    ]


def bits(tensor):
    """The tensor's bytes: equal also where two NaNs are."""
    return tensor.contiguous().view(-1).view(torch.uint8) if tensor.dim() else bits(tensor.view(1))


def broadcast(pick, tensor):
    return torch.as_tensor(pick).expand(tensor.shape)


@pytest.mark.parametrize('granularity', GRANULARITIES)
@given(seed=st.integers(0, 2**32), step=st.integers(0, 1000), keep_prob=st.floats(0, 0.999))
@settings(max_examples=25)
def test_copied_units_have_the_students_bits_and_kept_ones_their_own(
    granularity, seed, step, keep_prob
):
    pairs = random_pairs(seed)
    before = [pair.teacher.clone() for pair in pairs]
    picks = draw_picks(Units(pairs, granularity), seed, step, keep_prob)
    update(pairs, picks)
    for pair, old, pick in zip(pairs, before, picks):
        expected = torch.where(broadcast(pick, old), pair.student, old)
        assert torch.equal(bits(pair.teacher), bits(expected))


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('momentum', [None, 0.01, 0.7, 1.0])
def test_given_the_picks_an_update_equals_the_released_codes_rule(granularity, momentum):
    # For each unit, t = m t + (1 - m) s where it is not preserved; the released code's m is the
    # share of the old value. A copy is its first call, with m = 0.
    old_share = 0.0 if momentum is None else 1 - momentum
    pairs = random_pairs(3)
    expected = []
    picks = draw_picks(Units(pairs, granularity), 5, 9, 0.6)
    for pair, pick in zip(pairs, picks):
        t = pair.teacher.clone().double()
        moved = old_share * t + (1.0 - old_share) * pair.student.double()
        expected.append(torch.where(broadcast(pick, t), moved, t))
    update(pairs, picks, momentum)
    for pair, value in zip(pairs, expected):
        if momentum in (None, 1.0):
            assert torch.equal(pair.teacher, value.float())
        else:
            torch.testing.assert_close(pair.teacher, value.float())


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('momentum', [None, 0.3])
@pytest.mark.parametrize('poison', [math.nan, math.inf])
def test_kept_units_are_untouched_by_a_student_that_is_not_finite(granularity, momentum, poison):
    pairs = random_pairs(1)
    for pair in pairs:
        pair.student.fill_(poison)
    before = [pair.teacher.clone() for pair in pairs]
    picks = draw_picks(Units(pairs, granularity), 2, 4, 0.5)
    update(pairs, picks, momentum)
    for pair, old, pick in zip(pairs, before, picks):
        kept = ~broadcast(pick, old)
        assert torch.equal(pair.teacher[kept], old[kept])
        assert not pair.teacher[~kept].isfinite().any()


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_infinities_that_teacher_and_student_share_stay_when_they_are_averaged(granularity):
    mask = torch.tensor([[0.0, -math.inf], [math.inf, 1.0]])
    pair = TensorPair('a.mask', mask.clone(), mask.clone())
    for step in range(5):
        update([pair], draw_picks(Units([pair], granularity), 0, step, 0.3), 0.1)
    assert torch.equal(pair.teacher, mask)


def test_momentum_one_replaces_a_teacher_that_is_not_finite():
    pairs = random_pairs(1)
    for pair in pairs:
        pair.teacher.fill_(math.nan)
    update(pairs, [True] * len(pairs), 1.0)
    assert all(torch.equal(pair.teacher, pair.student) for pair in pairs)


def test_momentum_zero_changes_nothing():
    pairs = random_pairs(1)
    before = [pair.teacher.clone() for pair in pairs]
    pairs[0].student.fill_(math.nan)
    update(pairs, [True] * len(pairs), 0.0)
    assert all(torch.equal(pair.teacher, old) for pair, old in zip(pairs, before))


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('momentum', [None, 0.25])
@pytest.mark.parametrize('teacher_dtype', DTYPES)
@pytest.mark.parametrize('student_dtype', DTYPES)
def test_teacher_and_student_may_differ_in_dtype(
    granularity, momentum, teacher_dtype, student_dtype
):
    pairs = random_pairs(0, teacher_dtype, student_dtype)
    picks = draw_picks(Units(pairs, granularity), 0, 0, 0.4)
    expected = []
    for pair, pick in zip(pairs, picks):
        new = pair.student.to(teacher_dtype)
        if momentum is not None:
            new = pair.teacher.lerp(new, momentum)
        expected.append(torch.where(broadcast(pick, new), new, pair.teacher))
    update(pairs, picks, momentum)
    for pair, value in zip(pairs, expected):
        assert pair.teacher.dtype == teacher_dtype
        tolerance = 0 if momentum is None else torch.finfo(teacher_dtype).eps * 4
        torch.testing.assert_close(pair.teacher, value, rtol=tolerance, atol=tolerance)


def test_layout_of_the_memory_does_not_matter():
    plain = random_pairs(0)[:1]
    last = [
        TensorPair(
            plain[0].name,
            plain[0].teacher.clone(),
            plain[0].student.clone(memory_format=torch.channels_last),
        )
    ]
    for granularity in GRANULARITIES:
        for pairs in (plain, last):
            update(pairs, draw_picks(Units(pairs, granularity), 0, 0, 0.5), 0.3)
        torch.testing.assert_close(plain[0].teacher, last[0].teacher)


def test_integers_are_copied_whatever_the_average():
    pair = TensorPair('steps', torch.tensor([1, 2]), torch.tensor([30, 40]))
    update([pair], [True], 0.5)
    assert pair.teacher.tolist() == [30, 40]


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_averaging_function_is_applied_to_the_picked_units_alone(granularity):
    def average(teacher, student):
        teacher.mul_(0.9).add_(student, alpha=0.1)

    pairs, same = random_pairs(0), random_pairs(0)
    picks = draw_picks(Units(pairs, granularity), 0, 0, 0.5)
    update(pairs, picks, average)
    update(same, picks, 0.1)
    for left, right in zip(pairs, same):
        torch.testing.assert_close(left.teacher, right.teacher)


def test_gradients_do_not_reach_through_an_update():
    teacher, student = nn.Linear(3, 2).requires_grad_(False), nn.Linear(3, 2)
    pair = TensorPair('weight', teacher.weight, student.weight)
    for pick in (True, torch.tensor([[True], [False]])):
        for average in (None, 0.5):
            update([pair], [pick], average)
            assert teacher.weight.grad_fn is None
            assert not teacher.weight.requires_grad


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('momentum', [None, 0.25])
def test_promise_4_no_value_of_a_tensor_is_read_on_the_host(granularity, momentum):
    # Tensors on the meta device have none: reading one raises.
    pairs = [
        TensorPair(f'm.{i}', torch.empty(s, device='meta'), torch.empty(s, device='meta'))
        for i, s in enumerate([(4, 3), (4,), ()])
    ]
    picks = draw_picks(Units(pairs, granularity), 0, 0, 0.5)
    update(pairs, picks, momentum)
    with pytest.raises(RuntimeError):
        pairs[1].teacher.sum().item()
