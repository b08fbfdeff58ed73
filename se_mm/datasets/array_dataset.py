# SPDX-License-Identifier: Apache-2.0
"""What the embedded sets have in common: images that lie in one array, not in files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from mmengine.dataset import BaseDataset


class ArrayDataset(BaseDataset):
    """A labelled set of images in memory.

    An item, before the pipeline, is a dict of ``img`` (height, width, 3) uint8 in BGR order as mmcv
    reads images, ``gt_label`` int, ``img_shape``, ``ori_shape`` and ``sample_idx``.

    Args:
        classes: Names of the classes, in the order of the labels.
        pipeline: Transforms, as in every OpenMMLab dataset.
        test_mode: As in every OpenMMLab dataset.
        indices: Use only the first so many images, or those at these indices.
    """

    def __init__(
        self,
        classes: Sequence[str],
        pipeline: Optional[list] = None,
        test_mode: bool = False,
        indices: Any = None,
    ) -> None:
        # The images are one array, which worker processes share as it is.
        super().__init__(
            ann_file='',
            metainfo={'classes': tuple(classes)},
            pipeline=pipeline or [],
            test_mode=test_mode,
            indices=indices,
            serialize_data=False,
            lazy_init=False,
        )

    @abstractmethod
    def make_images(self) -> tuple[np.ndarray, np.ndarray]:
        """The images (n, height, width, 3) uint8 in BGR order, and the labels (n,) int64."""

    def load_data_list(self) -> list[dict]:
        """Make the images; called once."""
        self._images, labels = self.make_images()
        return [{'index': i, 'gt_label': int(label)} for i, label in enumerate(labels)]

    def get_data_info(self, idx: int) -> dict:
        """One item before the pipeline."""
        info = super().get_data_info(idx)
        image = self._images[info.pop('index')]
        # A copy: transforms may write into the image.
        return {
            **info,
            'img': image.copy(),
            'img_shape': image.shape[:2],
            'ori_shape': image.shape[:2],
        }

    def get_gt_labels(self) -> np.ndarray:
        """The labels (n,) int64."""
        return np.array([info['gt_label'] for info in self.data_list], dtype=np.int64)
