# SPDX-License-Identifier: Apache-2.0
"""Draw the labelled images of a data set, save them to a file, and check it against the data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Optional, Union

import numpy as np

from se_mm.checkpoints.write import whole_file
from se_mm.datasets.class_checks import check_labels, check_same_classes, count_images
from se_mm.smoothing.options import OptionError, check_count, check_flag, did_you_mean


@dataclass(frozen=True)
class LabelSplit:
    """The images of a data set whose labels are used.

    Attributes:
        dataset: Class name of the data set.
        classes: Names of its classes, in the order of the labels.
        num_images: Number of its images, including those without a label.
        digest: SHA-256, in hexadecimal, of its labels and the names of its image files, see
            :func:`digest_data`.
        num_labels: Number of labelled images.
        balanced: Whether classes were drawn equally often.
        seed: Seed of the draw.
        indices: The labelled images, sorted, 0 to ``num_images - 1``.
    """

    dataset: str
    classes: tuple[str, ...]
    num_images: int
    digest: str
    num_labels: int
    balanced: bool
    seed: int
    indices: tuple[int, ...]

    def save(self, path: Union[str, Path]) -> None:
        """Write the split as JSON, one line per field, and create the folder."""
        lines = [
            f'  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}'
            for key, value in asdict(self).items()
        ]
        with whole_file('split', path) as file:
            file.write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')

    @classmethod
    def load(cls, path: Union[str, Path]) -> LabelSplit:
        """Read a file that was written by :meth:`save`."""
        where = f'split={str(path)!r}'
        try:
            split = cls(**json.loads(Path(path).read_text(encoding='utf-8')))
            return replace(
                split, classes=tuple(split.classes), indices=tuple(sorted(split.indices))
            )
        except OSError as error:
            near = did_you_mean(path, [str(other) for other in Path(path).parent.glob('*.json')])
            raise OptionError(f'{where} cannot be read: {error.strerror}.{near}') from error
        except (TypeError, ValueError, RecursionError) as error:
            names = ', '.join(field.name for field in fields(cls))
            raise OptionError(f'{where} must be a JSON object of {names}: {error}') from error

    def check(
        self,
        path: Union[str, Path],
        dataset: str,
        classes: Sequence[str],
        labels: np.ndarray,
        names: Optional[Sequence[str]] = None,
    ) -> None:
        """Raise OptionError if the split was drawn from another data set, or cannot be used.

        ``path`` is its file, for the message; the rest is as for :func:`draw_split`.
        """
        where = f'split={str(path)!r}'
        check_labels(dataset, labels, len(classes), unlabelled=True)
        check_same_classes(dataset, classes, where, self.classes)
        if (self.dataset, self.num_images) != (dataset, len(labels)):
            raise OptionError(
                f'{where} was drawn from another data set: {self.num_images} images of '
                f'{self.dataset}, not {len(labels)} of {dataset}'
            )
        if self.digest != digest_data(labels, names):
            files = 'other image files, ' if names is not None else ''
            raise OptionError(
                f'{where} was drawn from {files}other labels or another order of the images'
            )
        for index in self.indices:
            if type(index) is not int or not 0 <= index < len(labels) or labels[index] < 0:
                raise OptionError(
                    f'{where}: indices must be integers in 0 to {len(labels) - 1}, of images with '
                    f'a label, got {index!r:.60}'
                )
        if len(set(self.indices)) != self.num_labels:
            raise OptionError(
                f'{where}: num_labels must be the number of different indices, '
                f'{len(set(self.indices))}, got {self.num_labels!r}'
            )
        count_images(where, labels[list(self.indices)], classes)


def draw_split(
    dataset: str,
    classes: Sequence[str],
    labels: np.ndarray,
    num_labels: int,
    seed: int = 0,
    balanced: bool = True,
    names: Optional[Sequence[str]] = None,
) -> LabelSplit:
    """Draw the labelled images, without replacement.

    The draw depends only on the seed and the labels. A balanced draw contains that of fewer labels
    with the same seed.

    Args:
        dataset: Class name of the data set.
        classes: Names of its classes.
        labels: Its labels (n,), integers from 0 to ``len(classes) - 1``; images with negative
            labels are unlabelled and never drawn.
        num_labels: Number of images to draw, at least 1.
        seed: Seed of the draw, at least 0.
        balanced: Whether to draw the same number of images of every class; otherwise in the
            proportions of the data, rounded by largest remainder.
        names: The image files, in the order of the labels; None if the images are in memory. The
            draw does not depend on them.
    """
    check_count('num_labels', num_labels, 1)
    check_count('seed', seed)
    check_flag('balanced', balanced)
    check_labels(dataset, labels, len(classes), unlabelled=True)
    sizes = count_images(dataset, labels, classes)
    if num_labels > sizes.sum():
        raise OptionError(
            f'num_labels must be at most {sizes.sum()}, the number of images of {dataset} with a '
            f'label, got {num_labels}'
        )
    counts = (_equal_counts if balanced else _proportional_counts)(classes, sizes, num_labels)
    rng = np.random.default_rng(seed)
    # Permuting the whole class uses the same random numbers for any count.
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in enumerate(counts)
    ]
    return LabelSplit(
        dataset=dataset,
        classes=tuple(classes),
        num_images=len(labels),
        digest=digest_data(labels, names),
        num_labels=num_labels,
        balanced=balanced,
        seed=seed,
        indices=tuple(np.sort(np.concatenate(drawn)).tolist()),
    )


def digest_data(labels: np.ndarray, names: Optional[Sequence[str]] = None) -> str:
    """Return the SHA-256, in hexadecimal, of the labels and names that a split is drawn from.

    Args:
        labels: Shape (n,); hashed as int64 little-endian bytes.
        names: Image files in the same order, hashed after the labels. None: only the labels.
    """
    digest = hashlib.sha256(labels.astype('<i8').tobytes())
    for name in names or ():
        # The only byte that a name cannot contain.
        digest.update(os.fsencode(name) + b'\0')
    return digest.hexdigest()


def _equal_counts(classes: Sequence[str], sizes: np.ndarray, num_labels: int) -> np.ndarray:
    """Return the number of images to draw of each class, all the same."""
    each, rest = divmod(num_labels, len(classes))
    if rest:
        near = [str(number * len(classes)) for number in (each, each + 1) if number]
        raise OptionError(
            f'num_labels must be a multiple of the number of classes, {len(classes)}, got '
            f'{num_labels}; use {" or ".join(near)}, or balanced=False to draw in the proportions '
            f'of the data'
        )
    smallest = int(np.argmin(sizes))
    if sizes[smallest] < each:
        raise OptionError(
            f'num_labels must be at most {sizes[smallest] * len(classes)}, since class '
            f'{classes[smallest]!r} has only {sizes[smallest]} images, got {num_labels}; or set '
            f'balanced=False'
        )
    return np.full(len(classes), each)


def _proportional_counts(classes: Sequence[str], sizes: np.ndarray, num_labels: int) -> np.ndarray:
    """Return the number of images to draw of each class, in the proportions of the data."""
    counts = _largest_remainder(sizes, num_labels)
    if not counts.all():
        enough = next(n for n in count(num_labels) if _largest_remainder(sizes, n).all())
        first = int(np.argmin(counts))
        raise OptionError(
            f'num_labels must be at least {enough} to label an image of class {classes[first]!r}, '
            f'which has {sizes[first]} of {sizes.sum()} images, got {num_labels}'
        )
    return counts


def _largest_remainder(sizes: np.ndarray, total: int) -> np.ndarray:
    """Return integers (classes,) in proportion to ``sizes`` that sum to ``total``."""
    # In integer arithmetic ties are exact; they go to the first class.
    counts, rests = np.divmod(sizes * total, sizes.sum())
    order = np.argsort(-rests, kind='stable')
    counts[order[: total - counts.sum()]] += 1
    return counts
