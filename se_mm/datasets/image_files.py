# SPDX-License-Identifier: Apache-2.0
"""Find unreadable image files, and report or skip them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional, TypeVar

import numpy as np
from mmengine.fileio import get
from mmengine.logging import print_log

from se_mm.smoothing.options import OptionError, check_choice

T = TypeVar('T')
POLICIES = ('error', 'skip')
DEEP = ('.pgm', '.png', '.ppm', '.tif', '.tiff')
"""Formats that may have more than 8 bits per channel."""
MOST_READ = 20_000
"""Larger evaluation sets are only checked for missing and empty files."""


def fault_of(path: str) -> Optional[str]:
    """Return why an image file cannot be read, or None if it can.

    Args:
        path: Local path or URL, as ``LoadImageFromFile`` takes it.
    """
    import mmcv

    try:
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


def read_all(
    paths: Iterable[str], find: Callable[[str], Optional[str]] = fault_of
) -> Iterator[tuple[str, Optional[str]]]:
    """Yield each file, in order, with the reason why it cannot be read, or None.

    Args:
        paths: The files.
        find: Function that returns the reason for a file.
    """
    paths = list(paths)
    # Decoders release the GIL.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from zip(paths, pool.map(find, paths))


def paths_of(dataset: Any, indices: Optional[Iterable[int]] = None) -> list[Optional[str]]:
    """Return the image file of each item of a data set, None for items without one.

    Args:
        dataset: Any data set of MMEngine; all are None if it has no ``get_data_info``.
        indices: The items. None: all.
    """
    indices = range(len(dataset)) if indices is None else indices
    if not hasattr(dataset, 'get_data_info'):
        return [None for _ in indices]
    paths = (dataset.get_data_info(int(index)).get('img_path') for index in indices)
    return [None if path is None else os.fspath(path) for path in paths]


def names_of(dataset: Any) -> Optional[list[str]]:
    """Return the image files of a data set relative to their common folder.

    They do not change when the data are moved. None: the images are in memory.
    """
    paths = [path for path in paths_of(dataset) if path is not None]
    if not paths or len(paths) < len(dataset):
        return None
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, folder or os.curdir).replace(os.sep, '/') for path in paths]


def is_deep(path: str) -> bool:
    """Return whether an image has more than 8 bits per channel, of which only 8 are read."""
    import cv2

    if not path.lower().endswith(DEEP):
        return False
    image = cv2.imdecode(np.frombuffer(get(path), np.uint8), cv2.IMREAD_UNCHANGED)
    return image is not None and image.dtype != np.uint8


class ReadPolicy:
    """Policy for image files that cannot be read.

    Args:
        unreadable: ``'error'`` ends the run with the name of the file; ``'skip'`` reports, counts
            and skips it.

    Attributes:
        unreadable: As given.
        skipped: Skipped file -> the reason.

    Raises:
        OptionError: If ``unreadable`` is neither.
    """

    def __init__(self, unreadable: str) -> None:
        self.unreadable = check_choice('unreadable', unreadable, POLICIES)
        self.skipped: dict[str, str] = {}

    def read(self, path: Optional[str], make: Callable[[], T]) -> Optional[T]:
        """Return the result of ``make``, or None if the image is skipped.

        Args:
            path: The image file. None: the image is in memory.
            make: Reads and transforms the image. Its exceptions are passed on if the file can be
                read.

        Raises:
            OptionError: If the file cannot be read and that is an error.
        """
        if path in self.skipped:
            return None
        try:
            return make()
        except Exception as error:
            fault = None if path is None else fault_of(path)
            if path is None or fault is None:
                raise  # The pipeline fails, not the file.
            if self.unreadable == 'error':
                raise OptionError(_message(path, fault)) from error
            self._skip(path, fault)
            return None

    def check(self, paths: Sequence[Optional[str]], whole: bool = True) -> list[bool]:
        """Read files before they are needed.

        Args:
            paths: The files; None where an image is in memory.
            whole: Whether to decode the files. False: only look for missing and empty ones.

        Returns:
            Whether each file can be read.

        Raises:
            OptionError: If one cannot be read and that is an error.
        """
        find = fault_of if whole else _missing_or_empty
        files = dict.fromkeys(path for path in paths if path is not None)
        faults = {path: fault for path, fault in read_all(files, find) if fault}
        if faults and self.unreadable == 'error':
            first = next(iter(faults))
            others = f' ({len(faults)} files are unreadable)' if len(faults) > 1 else ''
            raise OptionError(_message(first, faults[first]) + others)
        for path, fault in faults.items():
            self._skip(path, fault)
        return [path not in faults for path in paths]

    def _skip(self, path: str, fault: str) -> None:
        self.skipped[path] = fault
        print_log(
            f'image {path!r} cannot be read and is skipped: {fault} '
            f'({len(self.skipped)} skipped in this process)',
            logger='current',
            level=logging.WARNING,
        )


def keep_readable(key: str, dataset: Any) -> Any:
    """Return an evaluation set without unreadable image files.

    All files are read first, since a metric over replaced images would be wrong.

    Args:
        key: The config key, for messages.
        dataset: The data set. Its attribute ``policy`` is used if it has one; otherwise an
            unreadable file is an error.

    Raises:
        OptionError: If a file cannot be read and that is an error, or none is left.
    """
    policy = getattr(dataset, 'policy', None) or ReadPolicy('error')
    paths = paths_of(dataset)
    if not any(paths):
        return dataset
    whole = len(paths) <= MOST_READ or policy.unreadable == 'skip'
    try:
        kept = [index for index, good in enumerate(policy.check(paths, whole)) if good]
    except OptionError as error:
        raise OptionError(f'{key}: {error}') from error
    if not kept:
        raise OptionError(f'{key}: none of its {len(paths)} images can be read')
    if len(kept) < len(paths):
        dataset = dataset.get_subset(kept)
        print_log(
            f'{key}: {len(paths) - len(kept)} of {len(paths)} images cannot be read and are '
            f'skipped; metrics are over {len(kept)} images',
            logger='current',
            level=logging.WARNING,
        )
    return dataset


def _missing_or_empty(path: str) -> Optional[str]:
    """Return whether a local file is missing or empty, as a reason, or None."""
    if '://' in path:
        return None
    try:
        return None if os.path.getsize(path) else 'it is empty'
    except OSError as error:
        return 'it does not exist' if isinstance(error, FileNotFoundError) else error.strerror


def _message(path: str, fault: str) -> str:
    return f"image {path!r} cannot be read: {fault}; repair or remove it, or set unreadable='skip'"
