# SPDX-License-Identifier: Apache-2.0
"""Preparation of batches that hold several kinds of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS


@MODELS.register_module()
class SemiSupervisedDataPreprocessor(BaseDataPreprocessor):
    """mmpretrain's preprocessor of classification, for each kind of images in turn.

    Args:
        **options: Those of :class:`mmpretrain.models.ClsDataPreprocessor`: ``mean``, ``std``,
            ``to_rgb`` and so on.
    """

    def __init__(self, **options: Any) -> None:
        from mmpretrain.models import ClsDataPreprocessor

        super().__init__()
        self.images = ClsDataPreprocessor(**options)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise the images, and bring everything to the model's device.

        Args:
            data: ``inputs`` is ``dict(labelled=(B, 3, H, W), views=[(U, 3, H, W), ...])``, uint8,
                and ``data_samples`` is ``dict(labels=(B,), truth=(U,))``, int64, as
                :func:`se_mm.datasets.collate_views` makes them; or both are as in every
                classification of mmpretrain.
            training: Whether the batch is for training.
        """
        inputs = data['inputs']
        if not isinstance(inputs, Mapping):
            return self.images(data, training)
        labelled, *views = (
            self.images({'inputs': images}, training)['inputs']
            for images in (inputs['labelled'], *inputs['views'])
        )
        return {
            'inputs': {'labelled': labelled, 'views': views},
            'data_samples': self.cast_data(data['data_samples']),
        }
