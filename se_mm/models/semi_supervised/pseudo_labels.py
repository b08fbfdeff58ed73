# SPDX-License-Identifier: Apache-2.0
"""From the labeller's probabilities to pseudo-labels: align, accept, make targets, and count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Optional

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
            probabilities: Predictions of the labeller, shape (N, num_classes), as the result.
            labels: Labels of the labelled images, shape (B,), int64.
        """
        self._follow(self.predicted, probabilities.mean(dim=0))
        if self.target == 'labelled':
            # Not bincount, for which the host waits for a GPU.
            ones = torch.ones_like(labels, dtype=self.wanted.dtype)
            counts = torch.zeros_like(self.wanted).index_add_(0, labels, ones)
            self._follow(self.wanted, counts / len(labels))
        aligned = probabilities * (self.wanted / self.predicted.clamp_min(1e-6))
        return aligned / aligned.sum(dim=1, keepdim=True)

    def _follow(self, average: Tensor, shares: Tensor) -> None:
        """Update a moving average with the mean over ranks."""
        all_reduce(shares, 'mean')
        average.lerp_(shares, self.momentum)


class Acceptance(nn.Module, ABC):
    """Base of modules that weight pseudo-labels.

    To use a subclass in a config, register it in MMEngine's ``MODELS``. One that adapts keeps its
    state in buffers, which are saved and resumed with the model.
    """

    @abstractmethod
    def forward(self, probabilities: Tensor) -> Tensor:
        """Map probabilities (N, num_classes) to weights (N,) in [0, 1]; 0 ignores the image."""


@MODELS.register_module()
class AcceptAll(Acceptance):
    """Accepts every pseudo-label."""

    def forward(self, probabilities: Tensor) -> Tensor:
        """See :class:`Acceptance`."""
        return probabilities.new_ones(len(probabilities))


@MODELS.register_module()
class ConfidenceThreshold(Acceptance):
    """Accepts pseudo-labels with a confidence above a threshold.

    Source: Sohn et al., FixMatch, NeurIPS 2020, equation 4.

    Args:
        threshold: Minimum probability of the most likely class, in (0, 1].
    """

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = check_number('threshold', threshold, 0, 1, open_low=True)

    def forward(self, probabilities: Tensor) -> Tensor:
        """See :class:`Acceptance`."""
        return probabilities.amax(dim=1).ge(self.threshold).float()


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
        """Return the probabilities (N, num_classes)."""
        return probabilities


@MODELS.register_module()
class SharpenedTarget(nn.Module):
    """The probabilities to the power of ``1 / temperature``, normalised.

    Args:
        temperature: In (0, 1]; 1 leaves them unchanged, values near 0 make them one-hot.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = check_number('temperature', temperature, 0, 1, open_low=True)

    def forward(self, probabilities: Tensor) -> Tensor:
        """Map probabilities (N, num_classes) to targets of the same shape."""
        # In log space, so that small temperatures do not give 0 / 0.
        return (probabilities.clamp_min(1e-38).log() / self.temperature).softmax(dim=1)


class PseudoLabelQuality:
    """Counts pseudo-labels on their device, so that training steps do not wait for the GPU."""

    def __init__(self) -> None:
        # First, rows: all images, those with known truth, correct ones; columns: all pseudo-labels,
        # accepted ones. Second, the accepted ones of each class.
        self._counts: Optional[tuple[Tensor, Tensor]] = None

    def update(self, probabilities: Tensor, weights: Tensor, truth: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: Predictions of the labeller, shape (N, num_classes).
            weights: Weights of the pseudo-labels, shape (N,); those above 0 are accepted.
            truth: True labels, shape (N,), int64; negative if unknown.
        """
        if self._counts is None:
            self._counts = truth.new_zeros(3, 2), truth.new_zeros(probabilities.shape[1])
        counts, histogram = self._counts
        labels, accepted = probabilities.argmax(dim=1), weights > 0
        rows = torch.stack([torch.ones_like(accepted), truth >= 0, labels == truth]).long()
        columns = torch.stack([torch.ones_like(accepted), accepted]).long()
        counts += (rows[:, None] * columns).sum(-1)
        histogram.index_add_(0, labels, accepted.long())

    def read(self) -> tuple[dict[str, float], list[float]]:
        """Return the counts of all ranks since the last call; must be called on every rank.

        Returns:
            First, ``mask_rate``, the share in [0, 1] of accepted pseudo-labels, and if some truth
            is known ``pseudo_label_acc`` and ``accepted_acc``, the accuracy in % of all and of the
            accepted ones. Second, each class's share in [0, 1] of the accepted ones. Both are empty
            if there was nothing to count.
        """
        if self._counts is None:
            return {}, []
        counts, histogram = self._counts
        self._counts = None
        all_reduce(counts)
        all_reduce(histogram)
        (images, accepted), (known, accepted_known), (right, accepted_right) = counts.tolist()
        scalars = {'mask_rate': accepted / images}
        if known:
            scalars['pseudo_label_acc'] = 100 * right / known
        if accepted_known:
            scalars['accepted_acc'] = 100 * accepted_right / accepted_known
        return scalars, [count / accepted for count in histogram.tolist()] if accepted else []
