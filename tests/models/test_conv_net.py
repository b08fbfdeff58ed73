# SPDX-License-Identifier: Apache-2.0
"""The small backbone."""

import pytest
import torch

from se_mm.models import ConvNet
from se_mm.smoothing import OptionError


def test_features_have_the_last_channels_and_the_strides_size():
    (features,) = ConvNet((4, 8), (2, 2))(torch.zeros(3, 3, 32, 16))
    assert features.shape == (3, 8, 8, 4)


def test_frozen_stages_neither_learn_nor_count():
    net = ConvNet((4, 8), (2, 2), frozen_stages=1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(torch.randn(8, 3, 16, 16))[0].square().mean().backward()
    optimizer.step()
    changed = {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {name for name in before if name.startswith('layers.1.')}


def test_as_many_strides_as_channels():
    with pytest.raises(OptionError, match=r'strides must have one number .*, got \(2,\)'):
        ConvNet((4, 8), (2,))


def test_maps_of_several_convolutions_come_out_in_order():
    net = ConvNet((4, 8, 16), (2, 2, 2), out_indices=(0, -1))
    shapes = [tuple(features.shape) for features in net(torch.zeros(2, 3, 32, 32))]
    assert shapes == [(2, 4, 16, 16), (2, 16, 4, 4)]
    with pytest.raises(OptionError, match=r'out_indices must be in -3 to 2, .*, got \(3,\)'):
        ConvNet((4, 8, 16), (2, 2, 2), out_indices=(3,))


def test_group_norm_makes_an_image_independent_of_its_batch():
    net = ConvNet((8, 8), (2, 1), norm_groups=4)
    images = torch.randn(3, 3, 16, 16)
    (together,), (alone,) = net(images), net(images[:1])
    torch.testing.assert_close(together[:1], alone)
    assert not any('running' in name for name in net.state_dict())
