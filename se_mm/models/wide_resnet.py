# SPDX-License-Identifier: Apache-2.0
"""Wide residual networks for small images, as used in semi-supervised classification."""

from __future__ import annotations

from typing import Optional

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing.options import OptionError, check_count, check_number


@MODELS.register_module()
class WideResNet(BaseModule):
    """WRN-depth-width with leaky ReLU, for images of about 32 x 32 pixels.

    Source: Zagoruyko and Komodakis, BMVC 2016. Activation and batch norm follow the published
    FixMatch results: leaky ReLU with slope 0.1, batch norm with momentum 0.001, and an activated
    shortcut in the first block. WRN-28-2 is ``depth=28, width=2`` with 128 output channels,
    WRN-28-8 is ``width=8`` with 512.

    Args:
        depth: Number of layers, 4 more than a multiple of 6.
        width: Multiplier of the channels, at least 1.
        in_channels: Channels of the images.
        slope: Negative slope of the leaky ReLU.
        bn_momentum: Weight of a batch in batch norm's running statistics, in (0, 1].
        drop_rate: Dropout probability inside a block, in [0, 1).
        init_cfg: As in every module of MMEngine; the default is Kaiming for convolutions.

    Raises:
        OptionError: If an option is out of range.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 2,
        in_channels: int = 3,
        slope: float = 0.1,
        bn_momentum: float = 0.001,
        drop_rate: float = 0.0,
        init_cfg: Optional[dict] = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = dict(
                type='Kaiming',
                layer='Conv2d',
                mode='fan_out',
                nonlinearity='leaky_relu',
                a=0.01,  # PyTorch's default slope, used to initialise the published networks
            )
        super().__init__(init_cfg)
        check_count('width', width, 1)
        if check_count('depth', depth, 10) % 6 != 4:
            raise OptionError(
                f'depth must be 4 more than a multiple of 6, such as '
                f'{(depth - 4) // 6 * 6 + 4} or {(depth - 4) // 6 * 6 + 10}, got {depth}'
            )
        check_number('slope', slope, 0, 1)
        check_number('bn_momentum', bn_momentum, 0, 1, open_low=True)
        check_number('drop_rate', drop_rate, 0, 1, open_high=True)
        blocks = (depth - 4) // 6
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels = 16
        self.stages = nn.Sequential()
        for stage in range(3):
            out_channels = 16 * 2**stage * width
            layers = []
            for index in range(blocks):
                layers.append(
                    _Block(
                        channels,
                        out_channels,
                        stride=2 if stage and not index else 1,
                        activate_shortcut=stage == 0 and index == 0,
                        norm=dict(momentum=bn_momentum),
                        slope=slope,
                        drop_rate=drop_rate,
                    )
                )
                channels = out_channels
            self.stages.append(nn.Sequential(*layers))
        self.norm = nn.BatchNorm2d(channels, momentum=bn_momentum)
        self.slope = slope

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Map images (N, in_channels, H, W) to a tuple of one map (N, 64 width, H / 4, W / 4)."""
        features = self.norm(self.stages(self.stem(images)))
        return (F.leaky_relu(features, self.slope, inplace=True),)


class _Block(nn.Module):
    """A pre-activation residual block with two convolutions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        activate_shortcut: bool,
        norm: dict,
        slope: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels, **norm)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels, **norm)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.activate_shortcut = activate_shortcut and self.shortcut is not None
        self.slope = slope
        self.drop_rate = drop_rate

    def forward(self, images: Tensor) -> Tensor:
        activated = F.leaky_relu(self.norm1(images), self.slope, inplace=True)
        shortcut = images
        if self.shortcut is not None:
            shortcut = self.shortcut(activated if self.activate_shortcut else images)
        inner = F.leaky_relu(self.norm2(self.conv1(activated)), self.slope, inplace=True)
        if self.drop_rate:
            inner = F.dropout(inner, self.drop_rate, self.training)
        return shortcut + self.conv2(inner)
