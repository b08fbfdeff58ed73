# SPDX-License-Identifier: Apache-2.0
"""Measure the quality of pseudo-labels during training."""

from __future__ import annotations

from typing import Optional

import torch
from mmengine.dist import all_reduce
from torch import Tensor


class PseudoLabelQuality:
    """Counts pseudo-labels on their device, so that training steps do not wait for the GPU."""

    def __init__(self) -> None:
        # Rows: all images, those with known truth, correct ones. Columns: all pseudo-labels,
        # accepted ones.
        self._counts: Optional[Tensor] = None
        self._histogram: Optional[Tensor] = None

    def update(self, probabilities: Tensor, weights: Tensor, truth: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: Predictions of the labeller, shape (N, num_classes).
            weights: Weights of the pseudo-labels, shape (N,); those above 0 are accepted.
            truth: True labels, shape (N,), int64; negative if unknown.
        """
        if self._counts is None or self._histogram is None:
            self._counts = truth.new_zeros(3, 2)
            self._histogram = truth.new_zeros(probabilities.shape[1])
        labels = probabilities.argmax(dim=1)
        accepted = weights > 0
        known = truth >= 0
        right = labels == truth
        either = torch.stack([torch.ones_like(accepted), accepted])
        self._counts += torch.stack(
            [(either & mask).sum(1) for mask in (torch.ones_like(known), known, right)]
        )
        self._histogram.index_add_(0, labels, accepted.long())

    def read(self) -> tuple[dict[str, float], list[float]]:
        """Return the counts of all ranks since the last call; must be called on every rank.

        Returns:
            First, ``mask_rate``, the share in [0, 1] of accepted pseudo-labels, and if some truth
            is known ``pseudo_label_acc`` and ``accepted_acc``, the accuracy in % of all and of the
            accepted ones. Second, each class's share in [0, 1] of the accepted ones. Both are empty
            if there was nothing to count.
        """
        if self._counts is None or self._histogram is None:
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
