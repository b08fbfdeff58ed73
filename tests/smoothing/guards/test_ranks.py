# SPDX-License-Identifier: Apache-2.0
"""Digests of tensors: equal for equal bits, and unequal for what damage does to them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.smoothing.guards import guard
from se_mm.smoothing.guards.guard import differing, digest

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
]


def tensor_of(dtype, *shape, seed=0):
    bits = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (bits * 50).to(dtype) if dtype is not torch.bool else bits > 0


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_same_values_have_the_same_digest_and_a_changed_one_another(dtype):
    tensor = tensor_of(dtype, 7, 5)
    again = tensor.clone()
    assert digest(tensor) == digest(again)
    again[3, 2] = ~again[3, 2] if dtype is torch.bool else again[3, 2] + 1
    assert digest(tensor) != digest(again)


@settings(deadline=None)
@given(
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.integers(1, 200),
    st.data(),
)
def test_every_flipped_bit_shows(dtype, size, data):
    tensor = tensor_of(dtype, size)
    damaged = tensor.clone()
    byte = data.draw(st.integers(0, damaged.view(torch.uint8).numel() - 1))
    damaged.view(torch.uint8)[byte] ^= 1 << data.draw(st.integers(0, 7))
    assert digest(tensor) != digest(damaged)


@settings(deadline=None)
@given(
    st.sampled_from([torch.float32, torch.float64, torch.float16]),
    st.integers(2, 300),
    st.data(),
)
def test_numbers_that_change_places_or_signs_show(dtype, size, data):
    tensor = torch.arange(1, size + 1).to(dtype)
    order = data.draw(st.permutations(range(size)))
    if order != list(range(size)):
        assert digest(tensor) != digest(tensor[order])
    # Of two signs and of all of them: with weights that are merely odd they would cancel.
    some = data.draw(st.lists(st.integers(0, size - 1), min_size=1, unique=True))
    signs = torch.ones(size, dtype=dtype)
    signs[some] = -1
    assert digest(tensor) != digest(tensor * signs)
    assert digest(tensor) != digest(-tensor)
    assert digest(tensor) != digest(tensor * 2)


def test_zeros_of_either_sign_and_nans_are_bits_like_others():
    assert digest(torch.tensor([0.0, 1.0])) != digest(torch.tensor([-0.0, 1.0]))
    nan = torch.tensor([float('nan'), 1.0])
    assert digest(nan) == digest(nan.clone())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_layout_makes_no_difference(shape):
    tensor = tensor_of(torch.float32, *shape)
    turned = tensor.permute(*reversed(range(tensor.dim()))).contiguous()
    turned = turned.permute(*reversed(range(tensor.dim())))
    assert digest(tensor) == digest(turned)


def test_pieces_far_apart_are_told_apart():
    # The same numbers in two pieces that change places.
    tensor = tensor_of(torch.float32, 3 << 16)
    first, second, third = tensor.chunk(3)
    assert digest(tensor) != digest(torch.cat([second, first, third]))
    wide = tensor.view(3, -1)
    assert digest(tensor) == digest(wide)


def test_empty_and_single_numbers_have_a_digest():
    assert digest(torch.empty(0, 3)) == digest(torch.empty(0, 2))
    assert digest(torch.tensor(1.5)) != digest(torch.tensor(-1.5))


def test_one_rank_differs_from_nobody():
    assert differing([('a', torch.ones(3)), ('b', torch.zeros(2))]) == []
    assert differing([]) == []


def test_the_first_rank_that_differs_is_named(monkeypatch):
    def three_ranks(digests):
        return [digests, digests, [digests[0], b'another', digests[2]]]

    monkeypatch.setattr(guard, 'all_ranks', three_ranks)
    tensors = [(name, torch.ones(3)) for name in 'abc']
    assert differing(tensors) == [('b', 2)]
