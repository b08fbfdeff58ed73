# SPDX-License-Identifier: Apache-2.0
"""Reflection padding for the weak view."""

from __future__ import annotations

from mmengine.registry import TRANSFORMS

from se_mm.smoothing.options import check_count


@TRANSFORMS.register_module()
class ReflectPad:
    """Pads an image by reflection, as in published weak views.

    Use it before ``RandomCrop``, whose own ``padding_mode`` has no effect together with ``padding``
    in mmpretrain 1.2: the border stays black.

    Args:
        padding: Pixels on each side, at least 1.

    Raises:
        OptionError: If it is out of range.
    """

    def __init__(self, padding: int = 4) -> None:
        self.padding = check_count('padding', padding, 1)

    def __call__(self, results: dict) -> dict:
        """Pad ``results['img']``, (height, width, channels)."""
        import mmcv

        image = mmcv.impad(results['img'], padding=self.padding, padding_mode='reflect')
        return {**results, 'img': image, 'img_shape': image.shape[:2]}

    def __repr__(self) -> str:
        return f'{type(self).__name__}(padding={self.padding})'
