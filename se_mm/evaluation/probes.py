# SPDX-License-Identifier: Apache-2.0
"""Probes: small classifiers that measure how well frozen features predict labels.

To add a probe, register a subclass of :class:`Probe` in ``mmengine.registry.TASK_UTILS``.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.device import get_device
from mmengine.registry import TASK_UTILS
from torch import Tensor

from se_mm.smoothing.options import OptionError, check_count, check_number

QUERY_CHUNK = 1024
"""Images compared with the bank at a time: with 128,000 features, 0.5 GB of similarities."""


class Probe(ABC):
    """Base of classifiers that are fitted to labelled features and score others.

    Args:
        name: Its name in metrics: ``teacher_{name}/top1``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, size: int) -> None:  # noqa: B027 -- most probes accept a bank of any size
        """Raise OptionError if a bank of ``size`` images is too small, before it is read."""

    @abstractmethod
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Fit the probe to the bank.

        Args:
            features: Shape (N, D), float32, on the CPU.
            labels: Shape (N,), int64, on the CPU, all at least 0.
        """

    @abstractmethod
    def scores(self, features: Tensor) -> Tensor:
        """Score every class for every image; call after :meth:`fit`.

        Args:
            features: Shape (M, D), float32, on the CPU.

        Returns:
            Shape (M, largest label of the bank + 1), float32, on the CPU; rows sum to 1.
        """


@TASK_UTILS.register_module()
class KNNProbe(Probe):
    """Weighted k-nearest-neighbour classifier, without training; the bank is moved to the GPU.

    A neighbour with cosine similarity s votes for its class with weight exp(s / temperature):
    Wu et al., *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*,
    CVPR 2018.

    Args:
        k: Number of neighbours, at least 1 and at most the size of the bank.
        temperature: Above 0; smaller values give more weight to the nearest neighbours.
        name: See :class:`Probe`.
    """

    def __init__(self, k: int = 20, temperature: float = 0.07, name: str = 'knn') -> None:
        super().__init__(name)
        self.k = check_count('k', k, low=1)
        self.temperature = check_number('temperature', temperature, 0, float('inf'), open_low=True)

    def check(self, size: int) -> None:
        """See :meth:`Probe.check`."""
        if self.k > size:
            raise OptionError(
                f'k must be at most {size}, the number of images in the bank, got {self.k}'
            )

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Store the bank; see :meth:`Probe.fit`."""
        self.check(len(features))
        self._bank = F.normalize(features.to(get_device()), dim=1)
        self._labels = labels.to(get_device())

    def scores(self, features: Tensor) -> Tensor:
        """See :meth:`Probe.scores`."""
        return torch.cat([self._votes(queries) for queries in torch.split(features, QUERY_CHUNK)])

    def _votes(self, queries: Tensor) -> Tensor:
        similarities = F.normalize(queries.to(self._bank), dim=1) @ self._bank.T
        similarities, nearest = similarities.topk(self.k, dim=1)
        # softmax is exp(s / temperature) up to a factor per row, and cannot overflow
        weights = (similarities / self.temperature).softmax(dim=1)
        votes = weights.new_zeros(len(queries), int(self._labels.max()) + 1)
        return votes.scatter_add_(1, self._labels[nearest], weights).cpu()


@TASK_UTILS.register_module()
class LinearProbe(Probe):
    """Multinomial logistic regression on standardised features, by scikit-learn (L-BFGS).

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

        super().__init__(name)
        check_number('C', C, 0, float('inf'), open_low=True)
        check_count('max_iter', max_iter, low=1)
        self._model: Any = make_pipeline(
            StandardScaler(), LogisticRegression(C=C, max_iter=max_iter)
        )

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """See :meth:`Probe.fit`."""
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter('ignore', ConvergenceWarning)
            self._model.fit(features.numpy(), labels.numpy())

    def scores(self, features: Tensor) -> Tensor:
        """See :meth:`Probe.scores`."""
        known = torch.from_numpy(self._model.classes_)
        scores = torch.zeros(len(features), int(known.max()) + 1)
        scores[:, known] = torch.from_numpy(self._model.predict_proba(features.numpy())).float()
        return scores
