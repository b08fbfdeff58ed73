# SPDX-License-Identifier: Apache-2.0
"""The kernel for GPUs, on the CPU: test_kernels.py runs this file in Triton's interpreter."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.smoothing import GRANULARITIES
from se_mm.smoothing.kernels import CUDAKernel
from se_mm.smoothing.units import TensorPair, Units, same_layout
from tests.smoothing.kernels.test_kernels import assert_as_plain, pairs

assert os.environ['TRITON_INTERPRET'] == '1'


def interpreted(made, granularity):
    """The kernel for GPUs, for tensors that it would leave to another backend."""
    return CUDAKernel(Units(made, granularity))


@pytest.mark.parametrize('granularity', GRANULARITIES)
@given(
    made=pairs(most=3000),
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6),
    keep_prob=st.sampled_from([0.0, 0.7, 0.99]),
    average=st.sampled_from([None, 0.001, 0.8]),
)
@settings(max_examples=15, deadline=None)
def test_kernel_is_the_plain_backend(granularity, made, seed, step, keep_prob, average):
    made = [pair for pair in made if same_layout(pair, 'tensor')]
    if made:
        assert_as_plain(interpreted, made, granularity, seed, step, keep_prob, average)


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_tensors_of_several_blocks(granularity):
    made = [
        TensorPair(f'p{index}', torch.randn(shape), torch.randn(shape))
        for index, shape in enumerate([(5001,), (3, 2049), (70, 33)])
    ]
    assert_as_plain(interpreted, made, granularity, 3, 5, 0.6, 0.01)


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_equal_infinities_of_a_mask_stay_what_they_are(granularity):
    mask = torch.tensor([0.0, -torch.inf, torch.inf, 1.0] * 16).view(16, 4)
    made = [TensorPair('a.mask', mask.clone(), mask.clone())]
    for step in range(3):
        interpreted(made, granularity).update(0, step, 0.3, 0.1)
    assert torch.equal(made[0].teacher, mask)
