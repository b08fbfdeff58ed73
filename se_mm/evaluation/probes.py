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

# Limit the memory for similarities: 1024 x 65536 in fp32 are 256 MB.
QUERY_CHUNK = 1024
BANK_CHUNK = 65536


class Probe(ABC):
    """Base of classifiers that are fitted to labelled features and score others.

    Args:
        name: Its name in metrics: ``teacher_{name}/top1``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, size: int) -> None:  # noqa: B027 -- most probes accept a bank of any size
        """Reject a bank that is too small, before anything is computed.

        Args:
            size: Number of images in the bank.

        Raises:
            OptionError: If the probe needs more images.
        """

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
    """Weighted k-nearest-neighbour classifier, without training.

    A neighbour with cosine similarity s votes for its class with weight exp(s / temperature):
    Wu et al., *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*,
    CVPR 2018.

    Args:
        k: Number of neighbours, at least 1 and at most the size of the bank.
        temperature: Above 0; smaller values give more weight to the nearest neighbours.
        name: See :class:`Probe`.

    Raises:
        OptionError: If ``k`` or ``temperature`` is out of range.
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
        """Store the bank without copying it; see :meth:`Probe.fit`."""
        self.check(len(features))
        self._features, self._labels = features, labels

    def scores(self, features: Tensor) -> Tensor:
        """See :meth:`Probe.scores`."""
        return torch.cat([self._votes(queries) for queries in torch.split(features, QUERY_CHUNK)])

    def _votes(self, queries: Tensor) -> Tensor:
        device = get_device()
        queries = F.normalize(queries.to(device), dim=1)
        similarities = queries.new_empty(len(queries), 0)
        labels = similarities.long()
        for bank, bank_labels in zip(
            torch.split(self._features, BANK_CHUNK),
            torch.split(self._labels, BANK_CHUNK),
            strict=True,
        ):
            candidates = queries @ F.normalize(bank.to(device), dim=1).T
            candidates, nearest = candidates.topk(min(self.k, len(bank)), dim=1)
            # Merge the best neighbours so far with the best of this chunk.
            similarities = torch.cat([similarities, candidates], dim=1)
            labels = torch.cat([labels, bank_labels.to(device)[nearest]], dim=1)
            similarities, best = similarities.topk(min(self.k, similarities.shape[1]), dim=1)
            labels = labels.gather(1, best)
        # softmax is exp(s / temperature) up to a factor per row, and cannot overflow
        weights = (similarities / self.temperature).softmax(dim=1)
        votes = queries.new_zeros(len(queries), int(self._labels.max()) + 1)
        return votes.scatter_add_(1, labels, weights).cpu()


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

    Raises:
        OptionError: If ``C`` or ``max_iter`` is out of range or scikit-learn is not installed.
    """

    def __init__(self, C: float = 1.0, max_iter: int = 200, name: str = 'linear') -> None:
        super().__init__(name)
        self.C = check_number('C', C, 0, float('inf'), open_low=True)
        self.max_iter = check_count('max_iter', max_iter, low=1)
        try:
            import sklearn.linear_model  # noqa: F401 -- fail before training if it is missing
        except ImportError as error:
            raise OptionError('LinearProbe needs scikit-learn, which is not installed') from error

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """See :meth:`Probe.fit`.

        Raises:
            OptionError: If the bank has a single class.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if len(torch.unique(labels)) < 2:
            raise OptionError('LinearProbe needs a bank of at least two classes, got one')
        self._model: Any = make_pipeline(
            StandardScaler(), LogisticRegression(C=self.C, max_iter=self.max_iter)
        )
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', ConvergenceWarning)
            self._model.fit(features.numpy(), labels.numpy())

    def scores(self, features: Tensor) -> Tensor:
        """See :meth:`Probe.scores`."""
        known = torch.from_numpy(self._model.classes_)
        scores = torch.zeros(len(features), int(known.max()) + 1)
        scores[:, known] = torch.from_numpy(self._model.predict_proba(features.numpy())).float()
        return scores
