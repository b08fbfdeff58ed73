# SPDX-License-Identifier: Apache-2.0
"""Select the pseudo-labels to train on."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing.options import check_number


class Acceptance(nn.Module, ABC):
    """Base of modules that weight pseudo-labels.

    To use a subclass in a config, register it in MMEngine's ``MODELS``. One that adapts keeps its
    state in buffers, which are saved and resumed with the model.
    """

    @abstractmethod
    def forward(self, probabilities: Tensor) -> Tensor:
        """Weight each pseudo-label.

        Args:
            probabilities: Predictions of the labeller, shape (N, num_classes), float32, without
                gradient.

        Returns:
            Weights, shape (N,), float32, in [0, 1]; 0 ignores the image.
        """


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

    Raises:
        OptionError: If it is out of range.
    """

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = check_number('threshold', threshold, 0, 1, open_low=True)

    def forward(self, probabilities: Tensor) -> Tensor:
        """See :class:`Acceptance`."""
        return probabilities.amax(dim=1).ge(self.threshold).float()
