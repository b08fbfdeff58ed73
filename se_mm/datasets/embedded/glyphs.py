# SPDX-License-Identifier: Apache-2.0
"""Synthetic images of letters on photographs, with adjustable number and difficulty."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import DATASETS

from se_mm.datasets.array_dataset import ArrayDataset
from se_mm.datasets.embedded.photographs import Photographs
from se_mm.smoothing.options import OptionError, check_choice, check_count, check_number

SPLITS = ('train', 'test')
# Letters whose shapes differ in both cases and under a turn by 15 degrees.
LETTERS = 'ABDEFGHJKMPQRSTXYZaefghkrt' + ''.join(
    letter for letter in string.ascii_letters if letter not in 'ABDEFGHJKMPQRSTXYZaefghkrt'
)
FONTS = (
    'DejaVuSans.ttf',
    'DejaVuSans-Bold.ttf',
    'DejaVuSans-Oblique.ttf',
    'DejaVuSansMono.ttf',
    'DejaVuSansMono-Bold.ttf',
    'DejaVuSerif.ttf',
    'DejaVuSerif-Bold.ttf',
    'DejaVuSerif-Italic.ttf',
    'STIXGeneral.ttf',
    'STIXGeneralBol.ttf',
    'STIXGeneralItalic.ttf',
)
# Images are drawn at this multiple of their size, and then reduced.
OVERSAMPLING = 2
MAX_ANGLE = 15.0
# Minimum difference in mean brightness between a letter and its background, of 255.
MIN_DIFFERENCE = 50


@DATASETS.register_module()
class Glyphs(ArrayDataset):
    """Letters in matplotlib's fonts on patches of scikit-learn's two photographs.

    Each image shows one letter, its class, with a random font, size, colour, position and angle. An
    image depends only on the seed, the split and its index, and not on the number of images.

    Example:
        >>> dataset = dict(type='Glyphs', num_images=6000, pipeline=[dict(type='PackInputs')])

    Args:
        split: ``'train'`` or ``'test'``, which have no image in common.
        num_images: Number of images.
        num_classes: Number of letters, 2 to 52; classes are equally frequent.
        size: Height and width in pixels, at least 16.
        contrast: Contrast of the background, 0 (uniform grey) to 1 (the photograph).
        seed: Seed of the images.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.

    Raises:
        OptionError: If an option is out of range.
    """

    def __init__(
        self,
        split: str = 'train',
        num_images: int = 6000,
        num_classes: int = 20,
        size: int = 32,
        contrast: float = 0.3,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.split = check_choice('split', split, SPLITS)
        self.num_images = check_count('num_images', num_images, 1)
        self.num_classes = check_count('num_classes', num_classes, 2)
        if num_classes > len(LETTERS):
            raise OptionError(
                f'num_classes must be an integer from 2 to {len(LETTERS)}, got {num_classes}'
            )
        self.size = check_count('size', size, 16)
        self.contrast = check_number('contrast', contrast, 0, 1)
        self.seed = check_count('seed', seed)
        super().__init__(LETTERS[:num_classes], **kwargs)

    def make_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw the images, cached per process since probes read the training images again."""
        return _draw_set(
            self.split, self.num_images, self.num_classes, self.size, self.contrast, self.seed
        )


@lru_cache(maxsize=4)
def _draw_set(
    split: str, num_images: int, num_classes: int, size: int, contrast: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw images (num_images, size, size, 3) uint8 in BGR order, and labels (num_images,)."""
    painter = _Painter(size, contrast)
    labels = np.arange(num_images) % num_classes
    images = np.empty((num_images, size, size, 3), np.uint8)
    for index, label in enumerate(labels):
        # A seed per image, so that it does not depend on previous ones.
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        images[index] = painter.draw(LETTERS[label], rng)
    images.flags.writeable = False
    return images, labels


class _Painter:
    """Draws letters on photographs."""

    def __init__(self, size: int, contrast: float) -> None:
        import matplotlib

        self.size = size
        self._photographs = Photographs(size, contrast)
        self._font_folder = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
        self._font_cache: dict = {}

    def draw(self, letter: str, rng: np.random.Generator) -> np.ndarray:
        """Draw an image (size, size, 3) uint8."""
        background = self._photographs.patch(rng)
        shape = self._shape(letter, rng)[..., None]
        colour = rng.integers(0, 256, 3)
        # A letter must be distinguishable from its background.
        behind = background.mean()
        while np.abs(colour.mean() - behind) < MIN_DIFFERENCE:
            colour = rng.integers(0, 256, 3)
        return (background * (1 - shape) + colour * shape).round().astype(np.uint8)

    def _shape(self, letter: str, rng: np.random.Generator) -> np.ndarray:
        """Draw the letter's coverage of each pixel, (size, size) float in [0, 1]."""
        from PIL import Image, ImageDraw

        side = self.size * OVERSAMPLING
        font = self._font(FONTS[rng.integers(len(FONTS))], int(side * rng.uniform(0.85, 1.05)))
        canvas = Image.new('L', (side, side))
        shift = rng.uniform(-0.06, 0.06, 2) * side
        centre = (side / 2 + shift[0], side / 2 + shift[1])
        ImageDraw.Draw(canvas).text(centre, letter, fill=255, font=font, anchor='mm')
        canvas = canvas.rotate(rng.uniform(-MAX_ANGLE, MAX_ANGLE), Image.Resampling.BILINEAR)
        canvas = canvas.resize((self.size, self.size), Image.Resampling.BOX)
        return np.asarray(canvas, np.float32) / 255

    def _font(self, name: str, pixels: int) -> Any:
        """Return a font of a size, read only once."""
        from PIL import ImageFont

        if (name, pixels) not in self._font_cache:
            path = str(self._font_folder / name)
            self._font_cache[name, pixels] = ImageFont.truetype(path, pixels)
        return self._font_cache[name, pixels]
