# SPDX-License-Identifier: Apache-2.0
"""Which pseudo-labels count."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing.options import check_number


class Acceptance(nn.Module, ABC):
    """Decides which pseudo-labels count, and how much.

    A subclass registered in MMEngine's ``MODELS`` can be named in a config. One that adapts keeps
    what it learns in buffers, which are saved and resumed with the model.
    """

    @abstractmethod
    def forward(self, probabilities: Tensor) -> Tensor:
        """Weight each pseudo-label.

        Args:
            probabilities: The labeller's, shape (N, num_classes), float32, without gradient.

        Returns:
            Shape (N,), float32, in [0, 1]; 0: the image does not count.
        """


@MODELS.register_module()
class AcceptAll(Acceptance):
    """Accepts every pseudo-label."""

    def forward(self, probabilities: Tensor) -> Tensor:
        """See :class:`Acceptance`."""
        return probabilities.new_ones(len(probabilities))


@MODELS.register_module()
class ConfidenceThreshold(Acceptance):
    """Accepts the pseudo-labels of which the labeller is sure enough.

    Source: Sohn et al., FixMatch, NeurIPS 2020, equation 4.

    Args:
        threshold: Smallest probability of the likeliest class, in (0, 1].

    Raises:
        OptionError: If it is out of its range.
    """

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = check_number('threshold', threshold, 0, 1, open_low=True)

    def forward(self, probabilities: Tensor) -> Tensor:
        """See :class:`Acceptance`."""
        return probabilities.amax(dim=1).ge(self.threshold).float()
