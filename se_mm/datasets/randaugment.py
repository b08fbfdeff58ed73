# SPDX-License-Identifier: Apache-2.0
"""The random operations of FixMatch's strong view."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import TRANSFORMS

from se_mm.smoothing.options import check_count, check_number

# Strengths are drawn uniformly between two values; a factor is one minus its magnitude.
FACTOR = dict(magnitude_range=(-0.95, -0.05), random_negative_prob=0.0)
# What moves into the image is black, as in the published implementations.
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
    """Some of FixMatch's operations, by mmpretrain's transforms, of random strengths.

    The list of operations and the ranges of their strengths are those of Sohn et al., FixMatch,
    NeurIPS 2020; doing nothing is one of them. mmpretrain's ``RandAugment`` has other
    ranges by default, and makes its transforms anew for every image.

    Args:
        num_ops: Operations for an image, at least 1; one may be drawn more than once.
        prob: Probability in [0, 1] with which each is applied.

    Raises:
        OptionError: If an option is out of its range.
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
        # One past the last does nothing.
        drawn = np.random.randint(len(self.operations) + 1, size=self.num_ops)
        applied = np.random.rand(self.num_ops) < self.prob
        for index in drawn[applied & (drawn < len(self.operations))]:
            results = self.operations[index](results)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_ops={self.num_ops}, prob={self.prob})'
