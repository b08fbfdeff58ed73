# SPDX-License-Identifier: Apache-2.0
"""How good the pseudo-labels are that a classifier has been trained on."""

from __future__ import annotations

from typing import Optional

import torch
from mmengine.dist import all_reduce
from torch import Tensor


class PseudoLabelQuality:
    """Counts pseudo-labels on their device, so that a training step never waits for a number."""

    def __init__(self) -> None:
        # Rows: all images, those whose truth is known, those that are right too; each for all
        # pseudo-labels and, in the second column, for the accepted.
        self._counts: Optional[Tensor] = None
        self._histogram: Optional[Tensor] = None

    def update(self, probabilities: Tensor, weights: Tensor, truth: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: The labeller's, shape (N, num_classes).
            weights: Of the pseudo-labels, shape (N,); above 0: accepted.
            truth: The true labels, shape (N,), int64; negative where they are not known.
        """
        if self._counts is None:
            self._counts = truth.new_zeros(3, 2)
            self._histogram = truth.new_zeros(probabilities.shape[1])
        labels = probabilities.argmax(dim=1)
        accepted = weights > 0
        known = truth >= 0
        right = labels == truth
        either = torch.stack([torch.ones_like(accepted), accepted])
        self._counts += torch.stack(
            [(either & mask).sum(1) for mask in (known | True, known, right)]
        )
        self._histogram.index_add_(0, labels, accepted.long())

    def read(self) -> tuple[dict[str, float], list[float]]:
        """What has been counted on all ranks since the last call; every rank must ask.

        Returns:
            ``mask_rate``, the share in [0, 1] of pseudo-labels accepted; where some truth is known
            ``pseudo_label_acc`` and ``accepted_acc``, the accuracy in % of all of them and of the
            accepted ones; and each class's share in [0, 1] of the accepted. Both are empty if there
            was nothing to count.
        """
        if self._counts is None:
            return {}, []
        counts, histogram = self._counts, self._histogram
        self._counts = self._histogram = None
        all_reduce(counts)
        all_reduce(histogram)
        (images, accepted), (known, accepted_known), (right, accepted_right) = counts.tolist()
        scalars = {'mask_rate': accepted / images}
        if known:
            scalars['pseudo_label_acc'] = 100 * right / known
        if accepted_known:
            scalars['accepted_acc'] = 100 * accepted_right / accepted_known
        return scalars, [count / accepted for count in histogram.tolist()] if accepted else []
