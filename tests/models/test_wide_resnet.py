# SPDX-License-Identifier: Apache-2.0
"""The wide residual network is the published one, written out here layer by layer."""

import pytest
import torch
import torch.nn.functional as F

from se_mm.models import WideResNet
from se_mm.smoothing import OptionError


@pytest.mark.parametrize(
    'depth, width, parameters',
    # Counts of the published networks, without their classifiers of 10 and of 100 classes.
    [(28, 2, 1_467_610 - 1_290), (28, 8, 23_401_012 - 51_300)],
)
def test_number_of_parameters_is_the_published_one(depth, width, parameters):
    network = WideResNet(depth, width)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize('training', [True, False])
def test_output_is_that_of_the_layers_written_out(training):
    torch.manual_seed(0)
    network = WideResNet(depth=10, width=2)
    network.init_weights()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(4, 3, 16, 16)

    def norm(x, name):
        stats = (None, None) if training else (f'{name}.running_mean', f'{name}.running_var')
        mean, var = (state.get(key) if key else None for key in stats)
        x = F.batch_norm(
            x, mean, var, state[f'{name}.weight'], state[f'{name}.bias'], training=training
        )
        return torch.where(x > 0, x, 0.1 * x)

    x = F.conv2d(images, state['stem.weight'], padding=1)
    for stage in range(3):
        block = f'stages.{stage}.0'
        stride = 1 if stage == 0 else 2
        first = norm(x, f'{block}.norm1')
        inner = F.conv2d(first, state[f'{block}.conv1.weight'], stride=stride, padding=1)
        inner = F.conv2d(norm(inner, f'{block}.norm2'), state[f'{block}.conv2.weight'], padding=1)
        # In the first block alone the shortcut begins after the activation.
        shortcut = first if stage == 0 else x
        x = F.conv2d(shortcut, state[f'{block}.shortcut.weight'], stride=stride) + inner
    (output,) = network.train(training)(images)
    assert output.shape == (4, 128, 4, 4)
    torch.testing.assert_close(output, norm(x, 'norm'))


def test_running_statistics_move_by_a_thousandth():
    network = WideResNet(depth=10, width=1)
    network(torch.randn(4, 3, 16, 16) + 5)
    assert network.stages[0][0].norm1.momentum == 0.001
    assert all(m.momentum == 0.001 for m in network.modules() if hasattr(m, 'running_mean'))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(depth=27), 'depth must be 4 more than a multiple of 6, such as 28, got 27'),
        (dict(width=0), r'width must be .*got 0'),
    ],
    ids=str,
)
def test_wrong_option_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        WideResNet(**options)
