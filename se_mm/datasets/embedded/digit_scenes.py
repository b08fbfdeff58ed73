# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits with boxes on photographs: a small detection set in COCO's format."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Optional

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from se_mm.datasets.coco_files import draw_coco_split
from se_mm.datasets.embedded.digits import Digits
from se_mm.datasets.embedded.photographs import Photographs
from se_mm.smoothing.options import check_choice, check_count, check_number

SPLITS = ('train', 'val')
SUBSETS = ('labelled', 'unlabelled')
NUM_DIGITS = (4, 12)
# Side of a digit, as a share of the scene's.
SIDES = (0.15, 0.26)
# Minimum difference in mean brightness between a digit and its background, of 255.
MIN_DIFFERENCE = 60
# Attempts to place a digit before it is left out.
TRIES = 10
# Minimum coverage of a pixel that counts as part of the digit.
INK = 0.25


@DATASETS.register_module()
class DigitScenes(BaseDataset):
    """Up to twelve of scikit-learn's digits on a patch of a photograph, without overlap.

    Digits have random sizes, colours and positions, and ``'val'`` has other digits than
    ``'train'``. A scene depends only on the seed, the split and its index. Before the pipeline, an
    item is that of mmdet's ``CocoDataset`` with the image, so the pipeline needs no
    ``LoadImageFromFile``.

    Example:
        >>> dataset = dict(type='DigitScenes', subset='labelled', percent=10, pipeline=[])

    Args:
        split: ``'train'`` or ``'val'``.
        num_images: Number of scenes.
        size: Height and width in pixels, at least 48.
        contrast: Contrast of the background, 0 (uniform grey) to 1 (the photograph).
        seed: Seed of the scenes.
        subset: ``'labelled'`` or ``'unlabelled'``: only these scenes of a split, drawn as in
            ``tools/split_coco.py``. None: all.
        percent: Labelled scenes in %, in (0, 100).
        fold: Number of the split, from 1.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.

    Raises:
        OptionError: If an option is out of range.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(
        self,
        split: str = 'train',
        num_images: int = 200,
        size: int = 96,
        contrast: float = 0.5,
        seed: int = 0,
        subset: Optional[str] = None,
        percent: float = 10,
        fold: int = 1,
        **kwargs: Any,
    ) -> None:
        self.split = check_choice('split', split, SPLITS)
        self.num_images = check_count('num_images', num_images, 1)
        self.size = check_count('size', size, 48)
        self.contrast = check_number('contrast', contrast, 0, 1)
        self.seed = check_count('seed', seed)
        self.subset = None if subset is None else check_choice('subset', subset, SUBSETS)
        self.percent = check_number('percent', percent, 0, 100, open_low=True, open_high=True)
        self.fold = check_count('fold', fold, 1)
        super().__init__(ann_file='', serialize_data=False, lazy_init=False, **kwargs)

    def coco(self) -> dict:
        """Return the annotations of all scenes in COCO's format, whatever the subset."""
        return _draw(self.split, self.num_images, self.size, self.contrast, self.seed)[1]

    def load_data_list(self) -> list[dict]:
        """Draw the scenes, and select those of the subset. Called once."""
        self._images, coco = _draw(self.split, self.num_images, self.size, self.contrast, self.seed)
        labelled = set()
        if self.subset is not None:
            ids = [image['id'] for image in coco['images']]
            labelled = set(draw_coco_split(ids, self.percent, self.fold))
        instances: dict[int, list[dict]] = {}
        for annotation in coco['annotations']:
            x, y, width, height = annotation['bbox']
            instances.setdefault(annotation['image_id'], []).append(
                {
                    'bbox': [x, y, x + width, y + height],
                    'bbox_label': annotation['category_id'] - 1,
                    'ignore_flag': 0,
                }
            )
        return [
            {
                'img_id': image['id'],
                'img_path': image['file_name'],
                'height': image['height'],
                'width': image['width'],
                'instances': [] if self.subset == 'unlabelled' else instances[image['id']],
            }
            for image in coco['images']
            if self.subset is None or (image['id'] in labelled) == (self.subset == 'labelled')
        ]

    def get_data_info(self, idx: int) -> dict:
        """Return an item before the pipeline."""
        info = super().get_data_info(idx)
        image = self._images[info['img_id'] - 1]
        # A copy: transforms may write into the image.
        return {
            **info,
            'img': image.copy(),
            'img_shape': image.shape[:2],
            'ori_shape': image.shape[:2],
        }


@lru_cache(maxsize=4)
def _draw(
    split: str, num_images: int, size: int, contrast: float, seed: int
) -> tuple[np.ndarray, dict]:
    """Draw images (num_images, size, size, 3) uint8 in BGR order, with their annotations."""
    digits = Digits(split='train' if split == 'train' else 'test', size=32)
    photographs = Photographs(size, contrast)
    images = np.empty((num_images, size, size, 3), np.uint8)
    coco: dict[str, list[dict]] = {
        'images': [],
        'annotations': [],
        'categories': [{'id': label + 1, 'name': str(label)} for label in range(10)],
    }
    for index in range(num_images):
        # A seed per scene, so that it does not depend on previous ones.
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        images[index], boxes, labels = _scene(digits, photographs, rng)
        coco['images'].append(
            {
                'id': index + 1,
                'file_name': f'{split}/{index + 1:06d}.png',
                'height': size,
                'width': size,
            }
        )
        coco['annotations'] += [
            {
                'id': len(coco['annotations']) + 1 + number,
                'image_id': index + 1,
                'category_id': label + 1,
                'bbox': box,
                'area': box[2] * box[3],
                'iscrowd': 0,
            }
            for number, (box, label) in enumerate(zip(boxes, labels))
        ]
    images.flags.writeable = False
    return images, coco


def _place(free: np.ndarray, side: int, rng: np.random.Generator) -> Optional[tuple[slice, slice]]:
    """Find the rows and columns of a free square; None if none is found."""
    for _ in range(TRIES):
        top, left = (int(start) for start in rng.integers(len(free) - side + 1, size=2))
        window = (slice(top, top + side), slice(left, left + side))
        if free[window].all():
            return window
    return None


def _scene(
    digits: Digits, photographs: Photographs, rng: np.random.Generator
) -> tuple[np.ndarray, list[list[float]], list[int]]:
    """Draw a scene (size, size, 3) uint8, its boxes (x, y, width, height), and their labels."""
    from PIL import Image

    scene = photographs.patch(rng)
    free = np.ones(scene.shape[:2], bool)
    boxes, labels = [], []
    for _ in range(rng.integers(NUM_DIGITS[0], NUM_DIGITS[1] + 1)):
        side = int(photographs.size * rng.uniform(*SIDES))
        info = digits[int(rng.integers(len(digits)))]
        ink = Image.fromarray(info['img'][..., 0]).resize((side, side), Image.Resampling.BOX)
        shape = np.asarray(ink, np.float32) / 255
        window = _place(free, side, rng)
        if window is None:
            continue
        colour = rng.integers(0, 256, 3)
        # A digit must be distinguishable from its background.
        while abs(colour.mean() - scene[window].mean()) < MIN_DIFFERENCE:
            colour = rng.integers(0, 256, 3)
        free[window] = False
        scene[window] = scene[window] * (1 - shape[..., None]) + colour * shape[..., None]
        rows, columns = (np.flatnonzero((shape > INK).any(axis)) for axis in (1, 0))
        boxes.append(
            [
                float(window[1].start + columns[0]),
                float(window[0].start + rows[0]),
                float(columns[-1] - columns[0] + 1),
                float(rows[-1] - rows[0] + 1),
            ]
        )
        labels.append(int(info['gt_label']))
    return scene.round().astype(np.uint8), boxes, labels
