# SPDX-License-Identifier: Apache-2.0
"""Users' own images in a folder, labelled by subfolder or unlabelled."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

from se_mm.datasets.image_files import ImageFiles
from se_mm.smoothing.options import OptionError, check_flag, did_you_mean

EXTENSIONS = (
    *('.bmp', '.jfif', '.jpeg', '.jpg', '.pgm'),
    *('.png', '.ppm', '.tif', '.tiff', '.webp'),
)


@DATASETS.register_module()
class ImageFolder(ImageFiles):
    """Images in a folder and all folders below it.

    Hidden files and ``__MACOSX`` are ignored. Files without one of the extensions in ``EXTENSIONS``
    are skipped and reported.

    Example:
        >>> dataset = dict(type='ImageFolder', data_root='data/my_images/labelled')

    Args:
        data_root: The folder.
        with_label: Whether the subfolders are the classes; otherwise the images have no labels. A
            class that is given may have no images.
        **kwargs: See :class:`~se_mm.datasets.image_files.ImageFiles`.
    """

    def __init__(self, data_root: str, with_label: bool = True, **kwargs: Any) -> None:
        self.with_label = check_flag('with_label', with_label)
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the files. Called once."""
        root = (self.data_prefix['img_path'] or self.data_root).rstrip(os.sep)
        if not os.path.isdir(root):
            near = [str(path) for path in Path(root).parent.glob('*') if path != Path(root)]
            raise OptionError(
                f'data_root must be a folder, got {root!r}.{did_you_mean(root, near)}'
            )
        self._left_out: Counter[str] = Counter()
        if self.with_label:
            items = list(self._labelled(root))
            self._warn_of_level(root, items)
        else:
            items = [{'img_path': path} for path in self._images(root)]
        if self._left_out:
            formats = ', '.join(f'{n} {kind}' for kind, n in sorted(self._left_out.items()))
            MMLogger.get_current_instance().warning(
                f'ImageFolder {root!r}: {len(items)} images; {self._left_out.total()} other files '
                f'are left out: {formats}'
            )
        if not items:
            below = 'its subfolders, one for each class' if self.with_label else 'it'
            raise OptionError(
                f'data_root={root!r} must have images in {below}: no file ends in '
                f'{", ".join(EXTENSIONS)}'
            )
        return items

    def _labelled(self, root: str) -> Iterator[dict]:
        """Yield the images of the classes."""
        _, folders, files = next(os.walk(root, onerror=_refuse))
        folders = list(filter(_is_shown, folders))
        for name in filter(_is_shown, files):
            self._left_out[f'outside the subfolders ({os.path.splitext(name)[1] or name})'] += 1
        labels = self._label_classes(folders)
        if unknown := sorted(set(folders) - set(labels)):
            raise OptionError(
                f'subfolders of {root!r} must be named by the classes {", ".join(labels)}, got '
                f'{", ".join(unknown)}'
            )
        for name, label in labels.items():
            if name in folders:
                for path in self._images(os.path.join(root, name)):
                    yield {'img_path': path, 'gt_label': label}

    def _warn_of_level(self, root: str, items: Sequence[dict]) -> None:
        """Warn if all classes are folders of the same folders, as ``train`` and ``test`` are."""
        below: dict[str, set[str]] = {}
        for item in items:
            name, *rest = os.path.relpath(item['img_path'], root).split(os.sep)
            below.setdefault(name, set()).add(rest[0] if len(rest) > 1 else '')
        shared = set.intersection(*below.values()) if below else set()
        if shared and '' not in set.union(*below.values()):
            MMLogger.get_current_instance().warning(
                f'ImageFolder {root!r}: all images of {", ".join(list(below)[:3])} are in folders '
                f'such as {", ".join(sorted(shared)[:3])}; is data_root one level too high?'
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
                if name.lower().endswith(EXTENSIONS):
                    yield os.path.join(place, name)
                else:
                    self._left_out[os.path.splitext(name)[1].lower() or 'without an ending'] += 1


def _refuse(error: OSError) -> NoReturn:
    """Raise OptionError for a folder that cannot be listed."""
    raise OptionError(
        f'folder {error.filename!r} must be readable, got: {error.strerror}'
    ) from error


def _is_shown(name: str) -> bool:
    return not name.startswith('.') and name != '__MACOSX'
