# SPDX-License-Identifier: Apache-2.0
"""Users' own images in a folder, labelled by subfolder or unlabelled."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Optional

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from se_mm.datasets.image_files import ReadPolicy
from se_mm.smoothing.options import OptionError, check_flag, did_you_mean

EXTENSIONS = (
    '.bmp',
    '.jfif',
    '.jpeg',
    '.jpg',
    '.pgm',
    '.png',
    '.ppm',
    '.tif',
    '.tiff',
    '.webp',
)


class OwnImages(BaseDataset):
    """Base of data sets of image files, which reports or skips unreadable files.

    Args:
        unreadable: Policy for unreadable files, see
            :class:`~se_mm.datasets.image_files.ReadPolicy`. In training, another image replaces a
            skipped one; evaluation loops read all files first and remove it.
        **kwargs: Arguments of :class:`mmengine.dataset.BaseDataset`.
    """

    def __init__(self, unreadable: str = 'error', **kwargs: Any) -> None:
        self.policy = ReadPolicy(unreadable)
        super().__init__(**kwargs)

    def prepare_data(self, idx: int) -> Any:
        """Return an item after the pipeline; None if its image is skipped."""
        info = self.get_data_info(idx)
        return self.policy.read(info['img_path'], lambda: self.pipeline(info))

    def _rand_another(self) -> int:
        if len(self.policy.skipped) >= len(self):
            raise OptionError(f'none of the {len(self)} images can be read')
        return super()._rand_another()

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels (n,), int64.

        Raises:
            KeyError: If the images have no labels.
        """
        labels = [self.get_data_info(index)['gt_label'] for index in range(len(self))]
        return np.array(labels, dtype=np.int64)


@DATASETS.register_module()
class ImageFolder(OwnImages):
    """Images in a folder and all folders below it.

    Before the pipeline, an item is a dict of ``img_path``, ``sample_idx`` and, with labels,
    ``gt_label`` int. Hidden files and ``__MACOSX`` are ignored. Files of other formats are skipped
    and reported.

    Example:
        >>> dataset = dict(type='ImageFolder', data_root='data/my_images/labelled')

    Args:
        data_root: The folder.
        data_prefix: Subfolder with the images.
        with_label: Whether the subfolders are the classes; otherwise the images have no labels.
        classes: Names of the classes, in the order of the labels; a class may have no images.
            None: the names of the subfolders, sorted.
        extensions: Extensions of image files, with their dots.
        unreadable: See :class:`OwnImages`.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.

    Raises:
        OptionError: If the folder has no images, or a subfolder is not a class.
    """

    def __init__(
        self,
        data_root: str,
        data_prefix: str = '',
        with_label: bool = True,
        classes: Optional[Sequence[str]] = None,
        extensions: Sequence[str] = EXTENSIONS,
        unreadable: str = 'error',
        **kwargs: Any,
    ) -> None:
        self.with_label = check_flag('with_label', with_label)
        self.extensions = _check_extensions(extensions)
        self._given_classes = check_classes((kwargs.get('metainfo') or {}).get('classes', classes))
        check_path('data_root', data_root)
        check_path('data_prefix', data_prefix, empty=True)
        super().__init__(
            unreadable=unreadable,
            data_root=os.path.expanduser(data_root),
            data_prefix=dict(img_path=os.path.expanduser(data_prefix)),
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """List the files. Called once."""
        root = (self.data_prefix['img_path'] or self.data_root).rstrip(os.sep) or os.sep
        if not os.path.isdir(root):
            parent = os.path.dirname(root) or os.curdir
            near = _names(parent) if os.path.isdir(parent) else []
            others = [path for name in near if (path := os.path.join(parent, name)) != root]
            raise OptionError(
                f'data_root must be a folder, got {root!r}.{did_you_mean(root, others)}'
            )
        self._left_out: Counter[str] = Counter()
        if self.with_label:
            items = list(self._labelled(root))
            self._warn_of_level(root, items)
        else:
            items = [{'img_path': path} for path in self._images(root)]
        if self._left_out:
            formats = ', '.join(f'{n} {kind}' for kind, n in sorted(self._left_out.items()))
            print_log(
                f'ImageFolder {root!r}: {len(items)} images; {self._left_out.total()} other files '
                f'are left out: {formats}',
                logger='current',
                level=logging.WARNING,
            )
        if not items:
            below = 'its subfolders, one for each class' if self.with_label else 'it'
            raise OptionError(
                f'data_root={root!r} must have images in {below}: no file ends in '
                f'{", ".join(self.extensions)}'
            )
        return items

    def _labelled(self, root: str) -> Iterator[dict]:
        """Yield the images of the classes, and store the class names in the metainfo."""
        names = _names(root)
        folders = [name for name in names if os.path.isdir(os.path.join(root, name))]
        for name in sorted(set(names) - set(folders)):
            self._left_out[f'outside the subfolders ({os.path.splitext(name)[1] or name})'] += 1
        classes = self._given_classes or warn_of_alike(root, tuple(folders))
        if unknown := [name for name in folders if name not in classes]:
            raise OptionError(
                f'subfolders of {root!r} must be named by the classes {", ".join(classes)}, got '
                f'{", ".join(unknown)}'
            )
        self._metainfo['classes'] = classes
        for label, name in enumerate(classes):
            if name in folders:
                for path in self._images(os.path.join(root, name)):
                    yield {'img_path': path, 'gt_label': label}

    def _warn_of_level(self, root: str, items: Sequence[dict]) -> None:
        """Warn if all classes are folders of the same folders, as ``train`` and ``test`` are."""
        below: dict[str, set[str]] = {}
        for item in items:
            name, *rest = os.path.relpath(item['img_path'], root).split(os.sep)
            below.setdefault(name, set()).add(rest[0] if len(rest) > 1 else '')
        if below and '' not in set.union(*below.values()) and set.intersection(*below.values()):
            shared = ', '.join(sorted(set.intersection(*below.values()))[:3])
            print_log(
                f'ImageFolder {root!r}: all images of {", ".join(list(below)[:3])} are in folders '
                f'such as {shared}; is data_root one level too high?',
                logger='current',
                level=logging.WARNING,
            )

    def _images(self, folder: str) -> Iterator[str]:
        """Yield the image files in a folder and its subfolders, sorted by name."""
        seen = set()
        for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
            # A link to a parent folder would loop forever.
            real = os.path.realpath(place)
            folders[:] = [] if real in seen else sorted(filter(_is_shown, folders))
            if real in seen:
                continue
            seen.add(real)
            for name in sorted(filter(_is_shown, names)):
                if name.lower().endswith(self.extensions):
                    yield os.path.join(place, name)
                else:
                    self._left_out[os.path.splitext(name)[1].lower() or 'without an ending'] += 1


def check_path(key: str, value: Any, empty: bool = False) -> str:
    """Return ``value`` if it is a local path.

    Args:
        key: The config key, for the message.
        value: What was given.
        empty: Whether it may be empty.

    Raises:
        OptionError: If it is not.
    """
    if not isinstance(value, str) or not (value or empty):
        raise OptionError(f'{key} must be a path, got {value!r}')
    if '://' in value:
        raise OptionError(f'{key} must be on this machine, got {value!r}')
    return value


def check_classes(classes: Any) -> Optional[tuple[str, ...]]:
    """Return class names as a tuple if they are unique strings; None if none are given.

    Raises:
        OptionError: If they are invalid.
    """
    if classes is None:
        return None
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not classes:
        raise OptionError(f'classes must be a list of names, got {classes!r}')
    for index, name in enumerate(classes):
        if not isinstance(name, str):
            raise OptionError(f'classes[{index}] must be a name in quotes, got {name!r}')
        if name in classes[:index]:
            raise OptionError(f'classes must have each name once, got {name!r} twice')
    return tuple(classes)


def warn_of_alike(source: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names, with a warning of those that differ only in case or in encoding."""
    first: dict[str, str] = {}
    for name in classes:
        other = first.setdefault(unicodedata.normalize('NFKC', name).casefold(), name)
        if other != name:
            print_log(
                f'{source!r}: {other!r} and {name!r} are different classes, which differ only in '
                f'capital letters or in the encoding of a character',
                logger='current',
                level=logging.WARNING,
            )
    return classes


def _names(folder: str) -> list[str]:
    """Return the names in a folder, sorted, without hidden files and those of macOS."""
    try:
        return sorted(filter(_is_shown, os.listdir(folder)))
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    """Raise OptionError for a folder that cannot be listed."""
    raise OptionError(
        f'folder {error.filename!r} must be readable, got: {error.strerror}'
    ) from error


def _check_extensions(extensions: Any) -> tuple[str, ...]:
    """Return extensions in lower case.

    Raises:
        OptionError: If they are not a list of extensions with their dots.
    """
    listed = not isinstance(extensions, str) and isinstance(extensions, Sequence)
    if not listed or not extensions or any(not str(end).startswith('.') for end in extensions):
        raise OptionError(f"extensions must be a list such as ['.jpg', '.png'], got {extensions!r}")
    return tuple(end.lower() for end in extensions)


def _is_shown(name: str) -> bool:
    return not name.startswith('.') and name != '__MACOSX'
