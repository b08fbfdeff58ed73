# SPDX-License-Identifier: Apache-2.0
"""SVHN and STL-10, which mmpretrain lacks, read by torchvision."""

from __future__ import annotations

import os
import tarfile
from http.client import HTTPException
from typing import Any, Optional

import numpy as np
from mmengine.dist import barrier, is_main_process
from mmengine.registry import DATASETS

from se_mm.datasets.array_dataset import ArrayDataset
from se_mm.smoothing.options import OptionError, check_choice, check_count, check_flag

SVHN_SPLITS = ('train', 'test', 'extra')
STL10_SPLITS = ('train', 'test', 'unlabeled', 'train+unlabeled')
STL10_CLASSES = (
    'airplane',
    'bird',
    'car',
    'cat',
    'deer',
    'dog',
    'horse',
    'monkey',
    'ship',
    'truck',
)
STL10_SIZE = 96
NUM_FOLDS = 10


@DATASETS.register_module()
class SVHN(ArrayDataset):
    """Street View House Numbers: cropped digits of 32 x 32 pixels.

    Example:
        >>> dataset = dict(type='SVHN', data_root='data/svhn', split='train')

    Args:
        data_root: Folder of ``train_32x32.mat``, ``test_32x32.mat`` and ``extra_32x32.mat``.
        split: ``'train'`` (73,257 images), ``'test'`` (26,032) or ``'extra'`` (531,131).
        download: Whether to download the split's file if it is missing.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.

    Raises:
        OptionError: If an option is out of range, or the file cannot be read.
    """

    def __init__(
        self, data_root: str, split: str = 'train', download: bool = True, **kwargs: Any
    ) -> None:
        self.split = check_choice('split', split, SVHN_SPLITS)
        self.download = check_flag('download', download)
        self._folder = _check_folder(data_root)
        super().__init__('0123456789', **kwargs)

    def make_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the split."""
        data = _read('SVHN', self._folder, self.download, split=self.split)
        return _to_bgr(data.data), data.labels.reshape(-1).astype(np.int64)


@DATASETS.register_module()
class STL10(ArrayDataset):
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
        size: Height and width to resize images to. None: 96, their own size.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.

    Raises:
        OptionError: If an option is out of range, or the files cannot be read.
    """

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        download: bool = True,
        fold: Optional[int] = None,
        size: Optional[int] = None,
        **kwargs: Any,
    ) -> None:
        self.split = check_choice('split', split, STL10_SPLITS)
        self.download = check_flag('download', download)
        if fold is not None:
            if check_count('fold', fold) >= NUM_FOLDS:
                raise OptionError(
                    f'fold must be an integer from 0 to {NUM_FOLDS - 1} or None, got {fold}'
                )
            if 'train' not in split:
                raise OptionError(
                    f"fold must be None with split={split!r}, got {fold}; only 'train' and "
                    "'train+unlabeled' have folds"
                )
        self.fold = fold
        self.size = STL10_SIZE if size is None else check_count('size', size, 1)
        self._folder = _check_folder(data_root)
        super().__init__(STL10_CLASSES, **kwargs)

    def make_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the split."""
        data = _read('STL10', self._folder, self.download, split=self.split, folds=self.fold)
        # torchvision checks neither this file nor that it exists.
        if (names := tuple(getattr(data, 'classes', STL10_CLASSES))) != STL10_CLASSES:
            raise OptionError(
                f'class_names.txt in data_root={self._folder!r} must list '
                f'{", ".join(STL10_CLASSES)}, got {", ".join(names)}'
            )
        images = _to_bgr(data.data)
        if self.size != STL10_SIZE:
            images = _resize(images, self.size)
        return images, np.asarray(data.labels).astype(np.int64)


def _check_folder(data_root: Any) -> str:
    """Return the folder of the data, with ``~`` expanded."""
    if not isinstance(data_root, (str, os.PathLike)) or not os.fspath(data_root):
        raise OptionError(f'data_root must be the path of a folder, got {data_root!r}')
    return os.path.expanduser(data_root)


def _read(name: str, folder: str, download: bool, **options: Any) -> Any:
    """Read a data set with torchvision; rank 0 downloads it before the others read it.

    Args:
        name: torchvision's name of the data set.
        folder: Folder of the data.
        download: Whether to download missing files.
        **options: Other arguments of torchvision's class.

    Raises:
        OptionError: If it cannot be read.
    """
    main = is_main_process()
    if download and not main:
        barrier()
    try:
        from torchvision import datasets

        return getattr(datasets, name)(folder, download=download and main, **options)
    # Exceptions that torchvision, its downloads and SciPy raise.
    except (
        RuntimeError,
        ImportError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        EOFError,
        NotImplementedError,
        HTTPException,
        tarfile.TarError,
    ) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise OptionError(f'data_root={folder!r}: {name} cannot be read: {reason}') from error
    finally:
        # Also after an error, or the other ranks would wait forever.
        if download and main:
            barrier()


def _to_bgr(images: np.ndarray) -> np.ndarray:
    """View images (n, 3, height, width) in RGB order as (n, height, width, 3) in BGR order."""
    return images[:, ::-1].transpose(0, 2, 3, 1)


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize images (n, height, width, 3) uint8 to (n, size, size, 3), bilinear, antialiased."""
    from PIL import Image

    resized = np.empty((len(images), size, size, 3), np.uint8)
    for target, image in zip(resized, images):
        picture = Image.fromarray(np.ascontiguousarray(image))
        target[:] = picture.resize((size, size), Image.Resampling.BILINEAR)
    return resized
