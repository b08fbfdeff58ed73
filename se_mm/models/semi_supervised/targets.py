# SPDX-License-Identifier: Apache-2.0
"""Turn the labeller's probabilities into training targets."""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing.options import check_number


@MODELS.register_module()
class HardTarget(nn.Module):
    """The most likely class, one-hot."""

    def forward(self, probabilities: Tensor) -> Tensor:
        """Map probabilities (N, num_classes) to targets of the same shape."""
        classes = probabilities.argmax(dim=1, keepdim=True)
        return torch.zeros_like(probabilities).scatter_(1, classes, 1.0)


@MODELS.register_module()
class SoftTarget(nn.Module):
    """The unchanged probabilities."""

    def forward(self, probabilities: Tensor) -> Tensor:
        """Map probabilities (N, num_classes) to targets of the same shape."""
        return probabilities


@MODELS.register_module()
class SharpenedTarget(nn.Module):
    """The probabilities to the power of ``1 / temperature``, normalised.

    Args:
        temperature: In (0, 1]; 1 leaves them unchanged, values near 0 make them one-hot.

    Raises:
        OptionError: If it is out of range.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = check_number('temperature', temperature, 0, 1, open_low=True)

    def forward(self, probabilities: Tensor) -> Tensor:
        """Map probabilities (N, num_classes) to targets of the same shape."""
        # In log space, so that small temperatures do not give 0 / 0.
        return (probabilities.clamp_min(1e-38).log() / self.temperature).softmax(dim=1)
