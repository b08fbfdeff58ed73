# SPDX-License-Identifier: Apache-2.0
"""Tensors split into units as the granularity says."""

import pytest
import torch
from torch import nn

from se_mm.smoothing import GRANULARITIES
from se_mm.smoothing.units import TensorPair, Units
from se_mm.smoothing.update import draw_picks


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, bias=False), nn.Linear(6, 5)
    )


def parameter_pairs(teacher=None, student=None):
    teacher, student = teacher or small_net(), student or small_net()
    return [
        TensorPair(name, parameter, student.get_parameter(name))
        for name, parameter in teacher.named_parameters()
    ]


def picks_by_name(granularity, keep_prob=0.5, step=0):
    pairs = parameter_pairs()
    picks = draw_picks(Units(pairs, granularity), seed=1, step=step, keep_prob=keep_prob)
    return {pair.name: pick for pair, pick in zip(pairs, picks)}


@pytest.mark.parametrize(
    'granularity, count',
    # Tensors: 2 + 2 + 1 + 2; modules: 4; channels: 4 + 4 + 6 + 5; numbers: all.
    [('tensor', 7), ('layer', 4), ('channel', 19), ('element', 3 * 4 * 9 + 4 + 8 + 24 + 30 + 5)],
)
def test_number_of_units(granularity, count):
    assert len(Units(parameter_pairs(), granularity)) == count


def test_tensors_of_a_layer_are_picked_together_and_layers_apart():
    patterns = set()
    for step in range(200):
        picks = picks_by_name('layer', step=step)
        assert picks['0.weight'] == picks['0.bias']
        assert picks['1.weight'] == picks['1.bias']
        patterns.add((picks['0.weight'], picks['1.weight'], picks['2.weight'], picks['3.weight']))
    assert len(patterns) == 16


def test_tensors_of_a_layer_are_picked_apart_as_tensor_units():
    patterns = {
        (picks['0.weight'], picks['0.bias'])
        for picks in (picks_by_name('tensor', step=step) for step in range(50))
    }
    assert len(patterns) == 4


def test_weight_and_bias_of_a_channel_are_picked_together():
    picks = picks_by_name('channel')
    assert picks['0.weight'].shape == (4, 1, 1, 1)
    assert picks['3.weight'].shape == (5, 1)
    assert torch.equal(picks['0.weight'].flatten(), picks['0.bias'])
    assert torch.equal(picks['3.weight'].flatten(), picks['3.bias'])
    different = [
        not torch.equal(p['0.bias'], p['1.bias'])
        for p in (picks_by_name('channel', step=step) for step in range(20))
    ]
    assert any(different)


def test_tensors_of_one_module_with_other_sizes_have_channels_of_their_own():
    attention = nn.MultiheadAttention(4, 2)
    pairs = parameter_pairs(attention, nn.MultiheadAttention(4, 2))
    # 12 rows of in_proj (weight and bias), and those 4 of out_proj, which is a module of its own.
    assert len(Units(pairs, 'channel')) == 12 + 4


def test_scalar_parameter_is_one_unit_of_every_granularity():
    teacher, student = nn.Module(), nn.Module()
    for module in (teacher, student):
        module.temperature = nn.Parameter(torch.tensor(1.0))
    pairs = parameter_pairs(teacher, student)
    for granularity in GRANULARITIES:
        units = Units(pairs, granularity)
        assert len(units) == 1
        seen = {bool(draw_picks(units, 0, step, 0.5)[0]) for step in range(50)}
        assert seen == {True, False}


def test_promise_1_picks_of_a_unit_do_not_depend_on_which_other_units_there_are():
    pairs = parameter_pairs()
    for granularity in GRANULARITIES:
        everything = draw_picks(Units(pairs, granularity), 0, 3, 0.5)
        for index in range(0, len(pairs), 2):
            alone = draw_picks(Units(pairs[index : index + 1], granularity), 0, 3, 0.5)[0]
            if isinstance(alone, bool):
                assert alone == everything[index]
            else:
                assert torch.equal(alone, everything[index])
