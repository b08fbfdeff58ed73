# SPDX-License-Identifier: Apache-2.0
"""Probes: small classifiers that measure how well frozen features predict labels.

To add a probe, register a subclass of :class:`Probe` in ``mmengine.registry.TASK_UTILS``.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from mmengine.registry import TASK_UTILS
from torch import Tensor

from se_mm.smoothing.options import OptionError, check_count, check_number


class Probe:
    """A classifier of scikit-learn that is fitted to labelled features and scores others.

    Args:
        name: Its name in metrics: ``teacher_{name}/top1``.
        model: The classifier; it must have ``predict_proba``.
    """

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self.model = model

    def check(self, size: int) -> None:
        """Raise OptionError if a bank of ``size`` images is too small, before it is read."""

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Fit the probe to the bank.

        Args:
            features: Shape (N, D), float32, on the CPU.
            labels: Shape (N,), int64, on the CPU, all at least 0.
        """
        from sklearn.exceptions import ConvergenceWarning

        self.check(len(features))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', ConvergenceWarning)
            self.model.fit(features.numpy(), labels.numpy())

    def scores(self, features: Tensor) -> Tensor:
        """Score every class for every image; call after :meth:`fit`.

        Args:
            features: Shape (M, D), float32, on the CPU.

        Returns:
            Shape (M, largest label of the bank + 1), float32, on the CPU; rows sum to 1.
        """
        known = torch.from_numpy(self.model.classes_)
        scores = torch.zeros(len(features), int(known.max()) + 1)
        scores[:, known] = torch.from_numpy(self.model.predict_proba(features.numpy())).float()
        return scores


@TASK_UTILS.register_module()
class KNNProbe(Probe):
    """Weighted k-nearest-neighbour classifier, without training.

    A neighbour with cosine similarity s votes for its class with weight exp(s / temperature):
    Wu et al., *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*,
    CVPR 2018.

    Args:
        k: Number of neighbours, at least 1 and at most the size of the bank.
        temperature: Above 0; smaller values give more weight to the nearest neighbours.
        name: See :class:`Probe`.
    """

    def __init__(self, k: int = 20, temperature: float = 0.07, name: str = 'knn') -> None:
        from sklearn.neighbors import KNeighborsClassifier

        self.k = check_count('k', k, low=1)
        check_number('temperature', temperature, 0, float('inf'), open_low=True)

        def weights(distances: np.ndarray) -> np.ndarray:
            # Relative to the nearest, whose weight is 1, so that not all vanish.
            return np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)

        super().__init__(name, KNeighborsClassifier(k, metric='cosine', weights=weights))

    def check(self, size: int) -> None:
        """See :meth:`Probe.check`."""
        if self.k > size:
            raise OptionError(
                f'k must be at most {size}, the number of images in the bank, got {self.k}'
            )


@TASK_UTILS.register_module()
class LinearProbe(Probe):
    """Multinomial logistic regression on standardised features (L-BFGS).

    Deterministic, without augmentation, and takes seconds for a few thousand images, so it suits
    monitoring a run. The linear evaluation reported in papers is a separate training, see
    ``configs/transfer/linear_r50_8xb32.py``.

    Args:
        C: Inverse strength of the L2 penalty, above 0, as in scikit-learn's LogisticRegression.
        max_iter: Maximum number of L-BFGS iterations, at least 1. A probe that reaches it is used
            as it is.
        name: See :class:`Probe`.
    """

    def __init__(self, C: float = 1.0, max_iter: int = 200, name: str = 'linear') -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        check_number('C', C, 0, float('inf'), open_low=True)
        check_count('max_iter', max_iter, low=1)
        logistic = LogisticRegression(C=C, max_iter=max_iter)
        super().__init__(name, make_pipeline(StandardScaler(), logistic))
