# SPDX-License-Identifier: Apache-2.0
"""Data sets of image files, of which some may be unreadable."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional, TypeVar

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import get
from mmengine.logging import MMLogger

from se_mm.smoothing.options import OptionError, check_choice

T = TypeVar('T')
MOST_READ = 20_000
"""Larger evaluation sets are only checked for missing and empty files."""


def fault_of(path: str, decode: bool = True) -> Optional[str]:
    """Return why an image file or URL cannot be read, or None if it can.

    Without ``decode``, only missing and empty local files are found.
    """
    import mmcv

    try:
        if not decode:
            return None if '://' in path or os.path.getsize(path) else 'it is empty'
        content = get(path)
    except FileNotFoundError:
        return 'it does not exist'
    except Exception as error:  # What a storage backend raises.
        return ' '.join(str(getattr(error, 'strerror', None) or error).split())
    if not content:
        return 'it is empty'
    try:
        image = mmcv.imfrombytes(content)
    except Exception:  # What a decoder raises.
        image = None
    return 'it is damaged or not an image' if image is None else None


def read_all(paths: Iterable[str], decode: bool = True) -> Iterator[tuple[str, Optional[str]]]:
    """Yield each file, in order, with the result of :func:`fault_of`."""
    paths = list(paths)
    # Decoders release the GIL.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from zip(paths, pool.map(lambda path: fault_of(path, decode), paths))


def paths_of(dataset: Any, indices: Optional[Iterable[int]] = None) -> list[Optional[str]]:
    """Return the image file of each item, or of those at ``indices``; None if it is in memory.

    The list is empty if the data set does not tell, as those that are not of MMEngine.
    """
    if not hasattr(dataset, 'get_data_info'):
        return []
    infos = map(dataset.get_data_info, range(len(dataset)) if indices is None else indices)
    return [info.get('img_path') for info in infos]


def names_of(dataset: Any) -> Optional[list[str]]:
    """Return the image files relative to their common folder; None if images are in memory."""
    paths = [path for path in paths_of(dataset) if path is not None]
    if not paths or len(paths) < len(dataset):
        return None
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) or os.curdir
    return [os.path.relpath(path, folder).replace(os.sep, '/') for path in paths]


class ReadPolicy:
    """Policy for image files that cannot be read.

    Args:
        unreadable: ``'error'`` ends the run with the name of the file; ``'skip'`` reports, counts
            and skips it.

    Attributes:
        skipped: Skipped file -> the reason.
    """

    def __init__(self, unreadable: str) -> None:
        self.unreadable = check_choice('unreadable', unreadable, ('error', 'skip'))
        self.skipped: dict[str, str] = {}

    def read(self, path: Optional[str], make: Callable[[], T]) -> Optional[T]:
        """Return the result of ``make``, which reads ``path``; None if the image is skipped.

        Exceptions are passed on if the file can be read, or is None.
        """
        if path in self.skipped:
            return None
        try:
            return make()
        except Exception as error:
            fault = path and fault_of(path)
            if not (path and fault):
                raise  # The pipeline fails, not the file.
            self._handle({path: fault}, error)
            return None

    def check(self, paths: Sequence[Optional[str]], decode: bool = True) -> list[bool]:
        """Read files in advance, and return whether each can be read."""
        files = dict.fromkeys(path for path in paths if path is not None)
        faults = {path: fault for path, fault in read_all(files, decode) if fault}
        self._handle(faults)
        return [path not in faults for path in paths]

    def _handle(self, faults: dict[str, str], cause: Optional[Exception] = None) -> None:
        """Raise OptionError for the first unreadable file, or report and skip them all."""
        for path, fault in faults.items():
            if self.unreadable == 'error':
                others = f' ({len(faults)} files are unreadable)' if len(faults) > 1 else ''
                raise OptionError(
                    f'image {path!r} cannot be read: {fault}; repair or remove it, or set '
                    f"unreadable='skip'{others}"
                ) from cause
            self.skipped[path] = fault
            MMLogger.get_current_instance().warning(
                f'image {path!r} cannot be read and is skipped: {fault} '
                f'({len(self.skipped)} skipped in this process)'
            )


class ImageFiles(BaseDataset):
    """Base of data sets of local image files, which reports or skips unreadable files.

    Before the pipeline, an item is a dict of ``img_path``, ``sample_idx`` and, with labels,
    ``gt_label`` int.

    Args:
        ann_file: File of the labels, relative to ``data_root``.
        data_root: Folder of the data.
        data_prefix: Folder of the images, relative to ``data_root``.
        classes: Names of the classes, in the order of the labels. None: those found, sorted.
        unreadable: See :class:`ReadPolicy`. In training, another image replaces a skipped one;
            evaluation loops read all files first and remove it.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.
    """

    def __init__(
        self,
        ann_file: str = '',
        data_root: str = '',
        data_prefix: str = '',
        classes: Optional[Sequence[str]] = None,
        unreadable: str = 'error',
        **kwargs: Any,
    ) -> None:
        paths = {'ann_file': ann_file, 'data_root': data_root, 'data_prefix': data_prefix}
        for key, value in paths.items():
            if not isinstance(value, str) or '://' in value:
                raise OptionError(f'{key} must be a path on this machine, got {value!r}')
        self.policy = ReadPolicy(unreadable)
        self._given_classes = (kwargs.get('metainfo') or {}).get('classes', classes)
        _check_classes(self._given_classes)
        super().__init__(
            ann_file=os.path.expanduser(ann_file),
            data_root=os.path.expanduser(data_root),
            data_prefix=dict(img_path=os.path.expanduser(data_prefix)),
            **kwargs,
        )

    def prepare_data(self, idx: int) -> Any:
        """Return an item after the pipeline; None if its image is skipped."""
        info = self.get_data_info(idx)
        return self.policy.read(info['img_path'], lambda: self.pipeline(info))

    def _rand_another(self) -> int:
        if len(self.policy.skipped) >= len(self):
            raise OptionError(f'none of the {len(self)} images can be read')
        return super()._rand_another()

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels (n,), int64; raise KeyError without."""
        labels = [self.get_data_info(index)['gt_label'] for index in range(len(self))]
        return np.array(labels, dtype=np.int64)

    def _label_classes(self, found: Iterable[str]) -> dict[str, int]:
        """Return the label of each class given, or otherwise found, and set the metainfo."""
        classes = tuple(self._given_classes or sorted(found))
        if not self._given_classes:
            _warn_of_alike(classes)
        self._metainfo['classes'] = classes
        return {name: label for label, name in enumerate(classes)}


def _check_classes(classes: Any) -> None:
    """Reject given classes that are not a list of different names."""
    if classes is None:
        return
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not classes:
        raise OptionError(f'classes must be a list of names, got {classes!r}')
    for name, times in Counter(classes).items():
        if not isinstance(name, str) or times > 1:
            raise OptionError(f'classes must be names in quotes, each once, got {name!r}')


def _warn_of_alike(classes: Iterable[str]) -> None:
    """Warn of classes that differ only in case or in encoding."""
    first: dict[str, str] = {}
    for name in classes:
        other = first.setdefault(unicodedata.normalize('NFKC', name).casefold(), name)
        if other != name:
            MMLogger.get_current_instance().warning(
                f'{other!r} and {name!r} are different classes, which differ only in capital '
                f'letters or in the encoding of a character'
            )


def keep_readable(key: str, dataset: Any) -> Any:
    """Return the evaluation set at a config key without unreadable image files.

    All files are read first, since a metric over replaced images would be wrong. Without an
    attribute ``policy`` of the data set, an unreadable file is an error.
    """
    policy = getattr(dataset, 'policy', None) or ReadPolicy('error')
    paths = paths_of(dataset)
    if not any(paths):
        return dataset
    decode = len(paths) <= MOST_READ or policy.unreadable == 'skip'
    try:
        kept = [index for index, good in enumerate(policy.check(paths, decode)) if good]
    except OptionError as error:
        raise OptionError(f'{key}: {error}') from error
    if not kept:
        raise OptionError(f'{key}: none of its {len(paths)} images can be read')
    if len(kept) < len(paths):
        dataset = dataset.get_subset(kept)
        MMLogger.get_current_instance().warning(
            f'{key}: {len(paths) - len(kept)} of {len(paths)} images cannot be read and are '
            f'skipped; metrics are over {len(kept)} images'
        )
    return dataset
