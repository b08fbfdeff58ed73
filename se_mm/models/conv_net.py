# SPDX-License-Identifier: Apache-2.0
"""A small backbone that trains on a CPU in minutes, for the demo and for experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing.options import OptionError


@MODELS.register_module()
class ConvNet(BaseModule):
    """A stack of 3 x 3 convolutions, each followed by a norm and ReLU.

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
        init_cfg: As in every module of MMEngine.

    Raises:
        OptionError: If the numbers of strides and channels differ, or an index is out of range.
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
        if len(channels) != len(strides):
            raise OptionError(
                f'strides must have one number for each of channels={channels!r}, got {strides!r}'
            )
        for index in out_indices:
            if not -len(channels) <= index < len(channels):
                raise OptionError(
                    f'out_indices must be in -{len(channels)} to {len(channels) - 1}, the indices '
                    f'of the convolutions, got {out_indices!r}'
                )
        self.out_indices = {index % len(channels) for index in out_indices}
        self.layers = nn.Sequential()
        for out_channels, stride in zip(channels, strides):
            self.layers.append(
                nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels)
                    if norm_groups is None
                    else nn.GroupNorm(norm_groups, out_channels),
                    nn.ReLU(inplace=True),
                )
            )
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
