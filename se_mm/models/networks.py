# SPDX-License-Identifier: Apache-2.0
"""Backbones for small images, and the head for linear evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Optional

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing.options import OptionError, check_count

SLOPE = 0.1
"""Negative slope of the leaky ReLU in WideResNet."""


@MODELS.register_module()
class ConvNet(BaseModule):
    """A stack of 3 x 3 convolutions, each followed by a norm and ReLU; trains on a CPU in minutes.

    Args:
        channels: Output channels of each convolution.
        strides: Stride of each convolution.
        in_channels: Channels of the images.
        norm_groups: Number of groups of a group norm, which does not depend on the other images of
            a batch. None: batch norm.
        out_indices: Indices of the convolutions whose feature maps are returned, in order; negative
            ones count from the last.
        frozen_stages: Number of convolutions, from the first, that are frozen: no gradients, and
            batch norm in evaluation mode.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 32, 64, 64, 128, 128),
        strides: Sequence[int] = (2, 1, 2, 1, 2, 1),
        in_channels: int = 3,
        norm_groups: Optional[int] = None,
        out_indices: Sequence[int] = (-1,),
        frozen_stages: int = 0,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        count = len(channels)
        if len(strides) != count:
            raise OptionError(
                f'strides must have one number for each of channels={channels!r}, got {strides!r}'
            )
        if not all(-count <= index < count for index in out_indices):
            raise OptionError(
                f'out_indices must be in -{count} to {count - 1}, the indices of the convolutions, '
                f'got {out_indices!r}'
            )
        self.out_indices = {index % count for index in out_indices}
        self.layers = nn.Sequential()
        for out_channels, stride in zip(channels, strides):
            norm: nn.Module = nn.BatchNorm2d(out_channels)
            if norm_groups is not None:
                norm = nn.GroupNorm(norm_groups, out_channels)
            conv = _conv3x3(in_channels, out_channels, stride)
            self.layers.append(nn.Sequential(conv, norm, nn.ReLU(inplace=True)))
            in_channels = out_channels
        self.frozen_stages = frozen_stages
        self.layers[:frozen_stages].requires_grad_(False)

    def train(self, mode: bool = True) -> ConvNet:
        """Set the mode of the layers that are not frozen."""
        super().train(mode)
        self.layers[: self.frozen_stages].eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, in_channels, H, W) to the feature maps (N, channels[i], h, w)."""
        maps = []
        for index, layer in enumerate(self.layers):
            images = layer(images)
            if index in self.out_indices:
                maps.append(images)
        return tuple(maps)


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
        init_cfg: None: Kaiming initialisation of the convolutions.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 2,
        in_channels: int = 3,
        init_cfg: Optional[dict] = None,
    ) -> None:
        # PyTorch's default slope, 0.01, was used to initialise the published networks.
        kaiming = dict(mode='fan_out', nonlinearity='leaky_relu', a=0.01)
        super().__init__(init_cfg or dict(type='Kaiming', layer='Conv2d', **kaiming))
        check_count('width', width, 1)
        if check_count('depth', depth, 10) % 6 != 4:
            raise OptionError(f'depth must be 4 more than a multiple of 6, such as 28, got {depth}')
        channels = 16
        self.stem = _conv3x3(in_channels, channels)
        self.stages = nn.Sequential()
        for stage in range(3):
            blocks = nn.Sequential()
            for index in range((depth - 4) // 6):
                out_channels, stride = 16 * 2**stage * width, 2 if stage and not index else 1
                blocks.append(_Block(channels, out_channels, stride, stage == index == 0))
                channels = out_channels
            self.stages.append(blocks)
        self.norm = _norm(channels)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Map images (N, in_channels, H, W) to a tuple of one map (N, 64 width, H / 4, W / 4)."""
        features = self.norm(self.stages(self.stem(images)))
        return (F.leaky_relu(features, SLOPE, inplace=True),)


class _Block(nn.Module):
    """A pre-activation residual block with two convolutions."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, activate_shortcut: bool
    ) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels)
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.norm2 = _norm(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.activate_shortcut = activate_shortcut

    def forward(self, images: Tensor) -> Tensor:
        activated = F.leaky_relu(self.norm1(images), SLOPE, inplace=True)
        shortcut = images
        if self.shortcut is not None:
            shortcut = self.shortcut(activated if self.activate_shortcut else images)
        inner = F.leaky_relu(self.norm2(self.conv1(activated)), SLOPE, inplace=True)
        return shortcut + self.conv2(inner)


_norm = partial(nn.BatchNorm2d, momentum=0.001)


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


@MODELS.register_module(name='LinearBNHead')
def linear_bn_head(num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """Build mmpretrain's ``LinearClsHead`` with a BatchNorm1d after its linear layer.

    A function and not a subclass, so that mmpretrain is imported only when the head is built. The
    arguments are those of ``LinearClsHead``. ``fc.0`` is the linear layer, ``fc.1`` the norm.
    """
    from mmpretrain.models.heads import LinearClsHead

    head = LinearClsHead(num_classes=num_classes, in_channels=in_channels, **options)
    head.fc = nn.Sequential(head.fc, nn.BatchNorm1d(num_classes))
    return head
