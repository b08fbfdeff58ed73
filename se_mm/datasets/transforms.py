# SPDX-License-Identifier: Apache-2.0
"""Transforms of FixMatch's weak and strong views."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import TRANSFORMS

from se_mm.smoothing.options import check_count, check_number

# Magnitudes are drawn uniformly from a range; a factor is one minus its magnitude.
FACTOR = dict(magnitude_range=(-0.95, -0.05), random_negative_prob=0.0)
# New borders are black, as in the published implementations.
SHIFT = dict(magnitude_range=(0, 0.3), random_negative_prob=0.5, pad_val=0)
OPERATIONS: tuple[dict[str, Any], ...] = (
    dict(type='AutoContrast'),
    dict(type='Brightness', **FACTOR),
    dict(type='ColorTransform', **FACTOR),
    dict(type='Contrast', **FACTOR),
    dict(type='Equalize'),
    dict(type='Posterize', magnitude_range=(4, 8)),
    dict(type='Rotate', magnitude_range=(0, 30), random_negative_prob=0.5, pad_val=0),
    dict(type='Sharpness', **FACTOR),
    dict(type='Shear', direction='horizontal', **SHIFT),
    dict(type='Shear', direction='vertical', **SHIFT),
    dict(type='Solarize', magnitude_range=(0, 256)),
    dict(type='Translate', direction='horizontal', **SHIFT),
    dict(type='Translate', direction='vertical', **SHIFT),
)


@TRANSFORMS.register_module()
class FixMatchRandAugment:
    """Applies random operations of FixMatch's RandAugment with random magnitudes.

    The operations, with identity as one of them, and the ranges of their magnitudes are those of
    Sohn et al., FixMatch, NeurIPS 2020; mmpretrain's transforms implement them. mmpretrain's own
    ``RandAugment`` has other default ranges, and rebuilds its transforms for every image.

    Args:
        num_ops: Operations per image, at least 1; drawn with replacement.
        prob: Probability in [0, 1] of applying each drawn operation.
    """

    def __init__(self, num_ops: int = 2, prob: float = 0.5) -> None:
        import mmpretrain.datasets  # noqa: F401 -- registers the operations

        self.num_ops = check_count('num_ops', num_ops, 1)
        self.prob = check_number('prob', prob, 0, 1)
        self.operations = []
        for operation in OPERATIONS:
            config = {**operation, 'type': f'mmpretrain.{operation["type"]}', 'prob': 1.0}
            if 'magnitude_range' in operation:
                config.update(magnitude_level=10, total_level=10, magnitude_std='inf')
            self.operations.append(TRANSFORMS.build(config))

    def __call__(self, results: dict) -> dict:
        """Apply them to ``results['img']``, (height, width, 3) uint8."""
        # The index after the last operation is the identity.
        drawn = np.random.randint(len(self.operations) + 1, size=self.num_ops)
        applied = np.random.rand(self.num_ops) < self.prob
        for index in drawn[applied & (drawn < len(self.operations))]:
            results = self.operations[index](results)
        return results


@TRANSFORMS.register_module()
class ReflectPad:
    """Pads an image by reflection, as in published weak views.

    Use it before ``RandomCrop``, whose own ``padding_mode`` has no effect together with ``padding``
    in mmpretrain 1.2: the border stays black.

    Args:
        padding: Pixels on each side.
    """

    def __init__(self, padding: int = 4) -> None:
        self.padding = check_count('padding', padding, 1)

    def __call__(self, results: dict) -> dict:
        """Pad ``results['img']``, (height, width, channels)."""
        import mmcv

        image = mmcv.impad(results['img'], padding=self.padding, padding_mode='reflect')
        return {**results, 'img': image, 'img_shape': image.shape[:2]}
