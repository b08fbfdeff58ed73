# SPDX-License-Identifier: Apache-2.0
"""SVHN and STL-10, which mmpretrain lacks, read by torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from mmengine.dist import barrier, is_main_process
from mmengine.registry import DATASETS

from se_mm.datasets.array_dataset import ArrayDataset
from se_mm.smoothing.options import OptionError, check_choice, check_flag

STL10_CLASSES = (
    *('airplane', 'bird', 'car', 'cat', 'deer'),
    *('dog', 'horse', 'monkey', 'ship', 'truck'),
)


class TorchvisionImages(ArrayDataset):
    """Base of data sets that torchvision's class of the same name reads with ``options``."""

    def __init__(
        self, classes: Sequence[str], data_root: str, download: bool, options: dict, **kwargs: Any
    ) -> None:
        self._folder = data_root
        self.download = check_flag('download', download)
        self._options = options
        super().__init__(classes, **kwargs)

    def make_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the split; rank 0 downloads it before the others read it."""
        name, main = type(self).__name__, is_main_process()
        if self.download and not main:
            barrier()
        try:
            from torchvision import datasets

            kind, download = getattr(datasets, name), self.download and main
            data = kind(self._folder, download=download, **self._options)
        except Exception as error:  # What torchvision, a download or SciPy raises.
            reason = ' '.join(str(error).split()) or type(error).__name__
            raise OptionError(
                f'data_root={self._folder!r}: {name} cannot be read: {reason}'
            ) from error
        finally:
            # Also after an error, or the other ranks would wait forever.
            if self.download and main:
                barrier()
        # From (n, RGB, height, width), as a view.
        images = data.data[:, ::-1].transpose(0, 2, 3, 1)
        return images, np.reshape(data.labels, -1).astype(np.int64)


@DATASETS.register_module()
class SVHN(TorchvisionImages):
    """Street View House Numbers: cropped digits of 32 x 32 pixels.

    Example:
        >>> dataset = dict(type='SVHN', data_root='data/svhn', split='train')

    Args:
        data_root: Folder of ``train_32x32.mat``, ``test_32x32.mat`` and ``extra_32x32.mat``.
        split: ``'train'`` (73,257 images), ``'test'`` (26,032) or ``'extra'`` (531,131).
        download: Whether to download the split's file if it is missing.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.
    """

    def __init__(
        self, data_root: str, split: str = 'train', download: bool = True, **kwargs: Any
    ) -> None:
        options = dict(split=check_choice('split', split, ('train', 'test', 'extra')))
        super().__init__('0123456789', data_root, download, options, **kwargs)


@DATASETS.register_module()
class STL10(TorchvisionImages):
    """STL-10: images of 96 x 96 pixels in ten classes, and many unlabelled ones.

    Unlabelled images have ``gt_label`` -1.

    Example:
        >>> dataset = dict(type='STL10', data_root='data/stl10', split='train+unlabeled')

    Args:
        data_root: Folder that contains ``stl10_binary``.
        split: ``'train'`` (5,000 images), ``'test'`` (8,000), ``'unlabeled'`` (100,000) or
            ``'train+unlabeled'``.
        download: Whether to download and unpack the archive (2.5 GB) if a file is missing.
        fold: Use only the 1,000 labelled training images of this predefined fold, 0 to 9. None:
            all.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.
    """

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        download: bool = True,
        fold: Optional[int] = None,
        **kwargs: Any,
    ) -> None:
        check_choice('split', split, ('train', 'test', 'unlabeled', 'train+unlabeled'))
        if fold is not None and 'train' not in split:
            raise OptionError(
                f"fold must be None with split={split!r}, got {fold}; only 'train' and "
                "'train+unlabeled' have folds"
            )
        options = dict(split=split, folds=fold)
        super().__init__(STL10_CLASSES, data_root, download, options, **kwargs)
