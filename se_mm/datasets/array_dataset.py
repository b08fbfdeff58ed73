# SPDX-License-Identifier: Apache-2.0
"""Base of data sets whose images are in one array instead of files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset


class ArrayDataset(BaseDataset):
    """Base of labelled data sets in memory.

    Before the pipeline, an item is a dict of ``img`` (height, width, 3) uint8 in mmcv's BGR order,
    ``gt_label`` int, ``img_shape``, ``ori_shape`` and ``sample_idx``.

    Args:
        classes: Names of the classes, in the order of the labels.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.
    """

    def __init__(self, classes: Sequence[str], **kwargs: Any) -> None:
        # Worker processes share the array without serialisation.
        super().__init__(metainfo={'classes': tuple(classes)}, serialize_data=False, **kwargs)

    @abstractmethod
    def make_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images (n, height, width, 3) uint8 in BGR order, and labels (n,) int64."""

    def load_data_list(self) -> list[dict]:
        """Make the images. Called once."""
        self._images, labels = self.make_images()
        return [{'index': i, 'gt_label': int(label)} for i, label in enumerate(labels)]

    def get_data_info(self, idx: int) -> dict:
        """Return an item before the pipeline."""
        info = super().get_data_info(idx)
        # A copy: transforms may write into the image.
        image = self._images[info.pop('index')].copy()
        return {**info, 'img': image, 'img_shape': image.shape[:2], 'ori_shape': image.shape[:2]}

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels (n,) int64."""
        return np.array([info['gt_label'] for info in self.data_list], dtype=np.int64)
