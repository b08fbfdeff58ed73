# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's handwritten digits: 1,797 real images shipped with the package."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import DATASETS

from se_mm.datasets.array_dataset import ArrayDataset
from se_mm.smoothing.options import check_choice, check_count

SPLITS = ('train', 'test', 'all')


@DATASETS.register_module()
class Digits(ArrayDataset):
    """Handwritten digits, 8 x 8 pixels in grey, enlarged and repeated in three channels.

    Source: the test part of the UCI ML hand-written digits, as ``sklearn.datasets.load_digits``.

    Example:
        >>> dataset = dict(type='Digits', split='train', pipeline=[dict(type='PackInputs')])

    Args:
        split: ``'train'``, ``'test'`` (297 images, stratified by class) or ``'all'``.
        size: Height and width in pixels, at least 8.
        seed: Seed of the split.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.

    Raises:
        OptionError: If an option is out of range.
    """

    def __init__(self, split: str = 'train', size: int = 32, seed: int = 0, **kwargs: Any) -> None:
        self.split = check_choice('split', split, SPLITS)
        self.size = check_count('size', size, 8)
        self.seed = check_count('seed', seed)
        super().__init__('0123456789', **kwargs)

    def make_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Enlarge the digits of the split."""
        from PIL import Image
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        chosen = np.arange(len(digits.target))
        if self.split != 'all':
            train, test = train_test_split(
                chosen, test_size=297, stratify=digits.target, random_state=self.seed
            )
            chosen = train if self.split == 'train' else test
        images = np.empty((len(chosen), self.size, self.size, 3), np.uint8)
        for image, index in zip(images, chosen):
            grey = Image.fromarray((digits.images[index] * 255 / 16).astype(np.uint8))
            resized = grey.resize((self.size, self.size), Image.Resampling.BICUBIC)
            image[:] = np.asarray(resized)[..., None]
        return images, digits.target[chosen].astype(np.int64)
