# SPDX-License-Identifier: Apache-2.0
"""A look at tensors that finds every infinity and NaN, and takes nothing else for one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.smoothing.guards import not_finite

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
    assert sorted(not_finite(tensors)) == expected


@pytest.mark.parametrize('dtype', FLOATING, ids=str)
def test_the_largest_numbers_are_finite(dtype):
    tensor = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    tensor[::2] *= -1
    assert not_finite([('large', tensor)]) == []


def test_integers_and_empty_tensors_are_not_looked_at():
    tensors = [
        ('count', torch.tensor(3)),
        ('none', torch.empty(0)),
        ('mask', torch.tensor([-math.inf])),
        ('weight', torch.ones(2)),
    ]
    assert not_finite(tensors) == ['mask']
    assert not_finite([]) == []


def test_it_reads_the_values_of_the_moment():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.data = torch.full((2,), math.nan)
    assert not_finite([('weight', weight)]) == ['weight']
