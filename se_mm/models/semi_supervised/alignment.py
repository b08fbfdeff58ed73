# SPDX-License-Identifier: Apache-2.0
"""Align the distribution of pseudo-labels."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing.options import check_choice, check_count, check_number


@MODELS.register_module()
class DistributionAlignment(nn.Module):
    """Corrects the labeller's probabilities for classes that it predicts too often or too rarely.

    Each probability is multiplied by the target share of its class divided by the class's mean
    probability so far; then they are normalised. Source: Berthelot et al., ReMixMatch, ICLR 2020,
    section 3.1; here a moving average replaces their mean of the last 128 batches. Means are taken
    over all ranks.

    Args:
        num_classes: Number of classes.
        target: ``'uniform'``, or ``'labelled'``, a moving average over the labelled images.
        momentum: Weight of a batch in the moving averages, in (0, 1].

    Raises:
        OptionError: If an option is out of range.
    """

    predicted: Tensor
    wanted: Tensor

    def __init__(self, num_classes: int, target: str = 'uniform', momentum: float = 0.01) -> None:
        super().__init__()
        check_count('num_classes', num_classes, 2)
        self.target = check_choice('target', target, ('uniform', 'labelled'))
        self.momentum = check_number('momentum', momentum, 0, 1, open_low=True)
        uniform = torch.full((num_classes,), 1 / num_classes)
        self.register_buffer('predicted', uniform)
        self.register_buffer('wanted', uniform.clone())

    def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Update the means with this batch, then align it.

        Args:
            probabilities: Predictions of the labeller, shape (N, num_classes), float32.
            labels: Labels of the labelled images, shape (B,), int64.

        Returns:
            Shape (N, num_classes), float32; each row sums to 1.
        """
        self.predicted.lerp_(_mean_over_ranks(probabilities.mean(dim=0)), self.momentum)
        if self.target == 'labelled':
            # Not bincount, for which the host waits for a GPU.
            ones = torch.ones_like(labels, dtype=self.wanted.dtype)
            shares = torch.zeros_like(self.wanted).index_add_(0, labels, ones) / len(labels)
            self.wanted.lerp_(_mean_over_ranks(shares), self.momentum)
        aligned = probabilities * (self.wanted / self.predicted.clamp_min(1e-6))
        return aligned / aligned.sum(dim=1, keepdim=True)


def _mean_over_ranks(values: Tensor) -> Tensor:
    values = values.clone()
    all_reduce(values, 'mean')
    return values
