# SPDX-License-Identifier: Apache-2.0
"""The kernel for GPUs, on the CPU: test_plan.py runs this file in Triton's interpreter."""

import os
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.smoothing import GRANULARITIES, Pair, fused
from se_mm.smoothing.units import same_layout
from tests.smoothing.test_plan import assert_as_plain, pairs

assert os.environ['TRITON_INTERPRET'] == '1'
INTERPRETED = partial(fused.Fused, kernel=fused.cuda_kernel)


@pytest.mark.parametrize('granularity', GRANULARITIES)
@given(
    made=pairs(most=3000),
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6),
    keep_prob=st.sampled_from([0.0, 0.7, 0.99]),
    average=st.sampled_from([None, 0.001, 0.8]),
)
@settings(max_examples=15, deadline=None)
def test_kernel_is_the_plain_way(granularity, made, seed, step, keep_prob, average):
    made = [pair for pair in made if same_layout(pair, granularity)]
    if made:
        assert_as_plain(INTERPRETED, made, granularity, seed, step, keep_prob, average)


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_tensors_of_several_blocks(granularity):
    made = [
        Pair(f'p{index}', torch.randn(shape), torch.randn(shape))
        for index, shape in enumerate([(5001,), (3, 2049), (70, 33)])
    ]
    assert_as_plain(INTERPRETED, made, granularity, 3, 5, 0.6, 0.01)
