# SPDX-License-Identifier: Apache-2.0
"""Views of a whole batch of images, made on the model's device in place of the loader's workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing.options import OptionError, check_count


class BatchViews:
    """Makes views of a batch by transforms of torchvision, on the device where the images are.

    The batch is divided into groups. The images of a group have the same random numbers, those of
    different groups have others: many groups are more like transforms of single images, few are
    faster. Random numbers come from PyTorch's global generator of the CPU, so that the host waits
    for nothing.

    Example:
        >>> import torch
        >>> from se_mm.models.batch_views import BatchViews
        >>> flip = dict(type='RandomHorizontalFlip')
        >>> crop = dict(type='RandomCrop', size=32, padding=4, padding_mode='reflect')
        >>> make = BatchViews([[flip, crop], [flip, crop, dict(type='RandAugment')]], groups=4)
        >>> weak, strong = make(torch.zeros(64, 3, 32, 32, dtype=torch.uint8))
        >>> strong.shape
        torch.Size([64, 3, 32, 32])

    Args:
        views: For each view, the configs of its transforms: names and options of those in
            ``torchvision.transforms.v2`` (https://pytorch.org/vision/stable/transforms.html). The
            option ``transforms``, as that of ``RandomChoice``, may hold configs in turn.
        groups: Groups of a batch, at least 1.
    """

    def __init__(self, views: Sequence[Sequence[Mapping[str, Any]]], groups: int = 32) -> None:
        if not views:
            raise OptionError(f'views must have a list of transforms for each view, got {views!r}')
        self.groups = check_count('groups', groups, 1)
        self._views = [nn.Sequential(*_transforms(view)) for view in views]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Make all views of images, ``(N, 3, H, W)`` uint8."""
        return [self.view(images, index) for index in range(len(self._views))]

    def view(self, images: Tensor, index: int) -> Tensor:
        """Make one of the views."""
        view = self._views[index]
        return torch.cat([view(group) for group in images.chunk(self.groups)])


def _transforms(configs: Any) -> list[nn.Module]:
    from torchvision.transforms import v2

    if not isinstance(configs, Sequence) or not all(isinstance(c, Mapping) for c in configs):
        raise OptionError(f'a view must be a list of configs of transforms, got {configs!r}')
    made = []
    for config in configs:
        options = {**config}
        kind = getattr(v2, options.pop('type'))
        if 'transforms' in options:
            options['transforms'] = _transforms(options['transforms'])
        made.append(kind(**options))
    return made


@MODELS.register_module()
class BatchViewsPreprocessor(BaseDataPreprocessor):
    """A data preprocessor that makes the views of self-supervised methods on the model's device.

    The pipeline of the data set then packs each image once, as uint8, all of one size. Options are
    those of :class:`BatchViews` and of mmpretrain's ``SelfSupDataPreprocessor``, such as ``mean``.
    """

    def __init__(self, views: Any, groups: int = 32, **options: Any) -> None:
        from mmpretrain.models import SelfSupDataPreprocessor

        super().__init__(non_blocking=True)
        self._views = BatchViews(views, groups)
        self.images = SelfSupDataPreprocessor(**options)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Make the views of ``inputs``, ``(N, 3, H, W)`` uint8, if training; normalise them."""
        data = self.cast_data(data)
        if training:
            data['inputs'] = self._views(data['inputs'])
        return self.images(data, training)
