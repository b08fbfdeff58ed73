# SPDX-License-Identifier: Apache-2.0
"""Patches of scikit-learn's two photographs, as backgrounds of synthetic images."""

from __future__ import annotations

import numpy as np


class Photographs:
    """Cuts square patches out of photographs.

    Args:
        size: Height and width of a patch in pixels.
        contrast: Contrast of a patch, 0 (uniform grey) to 1 (the photograph).
    """

    def __init__(self, size: int, contrast: float) -> None:
        from sklearn.datasets import load_sample_images

        self.size = size
        self.contrast = contrast
        # BGR as in mmcv; reduced, so that a patch shows more than one leaf or roof tile.
        self._photographs = [photo[::2, ::2, ::-1] for photo in load_sample_images().images]

    def patch(self, rng: np.random.Generator) -> np.ndarray:
        """Cut a patch (size, size, 3) float32 in [0, 255] at random, and rotate it at random."""
        photo = self._photographs[rng.integers(len(self._photographs))]
        top = rng.integers(photo.shape[0] - self.size + 1)
        left = rng.integers(photo.shape[1] - self.size + 1)
        patch = photo[top : top + self.size, left : left + self.size].astype(np.float32)
        patch = np.rot90(patch, rng.integers(4))
        return 127.5 + self.contrast * (patch - 127.5)
