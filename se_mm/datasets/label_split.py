# SPDX-License-Identifier: Apache-2.0
"""Draw the labelled images of a data set, save them to a file, and check it against the data."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from se_mm.checkpoints.write import whole_file
from se_mm.smoothing.options import OptionError, check_count, check_flag, did_you_mean

DIGEST_LENGTH = 64  # SHA-256 in hexadecimal.


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
        """Write the split as JSON, one line per field, and create the folder.

        Raises:
            OptionError: If it cannot be written.
        """
        lines = [
            f'  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}'
            for key, value in asdict(self).items()
        ]
        with whole_file('split', path) as file:
            file.write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')

    @classmethod
    def load(cls, path: Union[str, Path]) -> LabelSplit:
        """Read a split.

        Raises:
            OptionError: If the file does not exist, or was not written by :meth:`save`.
        """
        where = f'split={str(path)!r}'
        try:
            content = json.loads(Path(path).read_text(encoding='utf-8'))
        except FileNotFoundError as error:
            folder = Path(path).parent
            near = did_you_mean(path, [str(other) for other in folder.glob('*.json')])
            raise OptionError(f'{where} does not exist.{near}') from error
        except (OSError, ValueError, RecursionError) as error:
            raise OptionError(f'{where} cannot be read as JSON: {error}') from error
        if not isinstance(content, dict):
            raise OptionError(f'{where} must be a JSON object, got {_short(content)}')
        names = [field.name for field in fields(cls)]
        for key in content:
            if key not in names:
                raise OptionError(
                    f'{where} must have only the fields {", ".join(names)}, got {key!r}.'
                    f'{did_you_mean(key, names)}'
                )
        for name in names:
            if name not in content:
                raise OptionError(f'{where} must have the field {name!r}')
        _check_content(where, content)
        content['classes'] = tuple(content['classes'])
        content['indices'] = tuple(sorted(content['indices']))
        return cls(**content)

    def check(
        self,
        path: Union[str, Path],
        dataset: str,
        classes: Sequence[str],
        labels: np.ndarray,
        names: Optional[Sequence[str]] = None,
    ) -> None:
        """Reject a split that was drawn from another data set, or that cannot be used.

        Args:
            path: File of the split, for the message.
            dataset: Class name of the data set.
            classes: Names of its classes.
            labels: Its labels (n,), integers; negative for images without a label.
            names: Its image files; None if the images are in memory.

        Raises:
            OptionError: If the data set differs, an index has no image or no label, or a class has
                no labelled image.
        """
        where = f'split={str(path)!r}'
        labels = _check_labels(classes, labels)
        for what, own, given in (
            ('data set', self.dataset, dataset),
            ('number of classes', len(self.classes), len(classes)),
            ('number of images', self.num_images, len(labels)),
        ):
            if own != given:
                raise OptionError(
                    f'{where} was drawn from another data set: its {what} is {own!r}, not {given!r}'
                )
        for index, (own, given) in enumerate(zip(self.classes, classes)):
            if own != given:
                raise OptionError(
                    f'{where} was drawn from another data set: its class {index} is {own!r}, not '
                    f'{given!r}'
                )
        digest = digest_data(labels, names)
        if self.digest != digest:
            files = 'other image files, ' if names is not None else ''
            raise OptionError(
                f'{where} was drawn from {files}other labels or another order of the images: its '
                f'digest is {_short(self.digest)}, not {_short(digest)}'
            )
        for index in self.indices:
            if not 0 <= index < len(labels):
                raise OptionError(
                    f'{where}: indices must be in 0 to {len(labels) - 1}, got {index}'
                )
            if labels[index] < 0:
                raise OptionError(
                    f'{where}: indices must be of images with a label, got {index}, which has none'
                )
        counts = np.bincount(labels[list(self.indices)], minlength=len(classes))
        for name, count in zip(classes, counts):
            if count == 0:
                raise OptionError(
                    f'{where} must have a labelled image of every class, got none of {name!r}'
                )

    def table(self, labels: np.ndarray) -> str:
        """Format a table of each class with its numbers of images and labelled images.

        Args:
            labels: The labels (n,) of the data set.
        """
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        labels = np.asarray(labels)
        title = f'{self.dataset}: {self.num_labels} labels, seed {self.seed}'
        table = Table(title=Text(title), show_footer=True)
        table.add_column('class', footer='all')
        table.add_column('images', justify='right', footer=str(len(labels)))
        table.add_column('labelled', justify='right', footer=str(len(self.indices)))
        images = _count_classes(labels, len(self.classes))
        labelled = _count_classes(labels[list(self.indices)], len(self.classes))
        for name, of_class, drawn in zip(self.classes, images, labelled):
            table.add_row(Text(name), str(of_class), str(drawn))
        if without := int((labels < 0).sum()):
            table.add_row('(no label)', str(without), '0')
        stream = io.StringIO()
        Console(file=stream, width=100).print(table)
        return stream.getvalue()


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

    Raises:
        OptionError: If an option is out of range, or a class would get no label or has too few
            images.
    """
    num_labels = check_count('num_labels', num_labels, 1)
    seed = check_count('seed', seed)
    balanced = check_flag('balanced', balanced)
    classes = tuple(str(name) for name in classes)
    labels = _check_labels(classes, labels)
    sizes = _count_classes(labels, len(classes))
    for name, size in zip(classes, sizes):
        if size == 0:
            raise OptionError(
                f'{dataset} must have an image with a label of every class, got none of {name!r}'
            )
    if num_labels > sizes.sum():
        raise OptionError(
            f'num_labels must be at most {sizes.sum()}, the number of images of {dataset} with a '
            f'label, got {num_labels}'
        )
    counts = (_equal_counts if balanced else _proportional_counts)(classes, sizes, num_labels)
    rng = np.random.default_rng(seed)
    # Permuting the whole class uses the same random numbers for any count.
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in enumerate(counts)
    ]
    return LabelSplit(
        dataset=dataset,
        classes=classes,
        num_images=len(labels),
        digest=digest_data(labels, names),
        num_labels=num_labels,
        balanced=balanced,
        seed=seed,
        indices=tuple(int(index) for index in np.sort(np.concatenate(drawn))),
    )


def digest_data(labels: np.ndarray, names: Optional[Sequence[str]] = None) -> str:
    """Return the SHA-256, in hexadecimal, of the labels and names that a split is drawn from.

    Args:
        labels: Shape (n,); hashed as int64 little-endian bytes.
        names: Image files in the same order, hashed after the labels. None: only the labels.
    """
    digest = hashlib.sha256(np.asarray(labels).astype('<i8').tobytes())
    for name in names or ():
        # The only byte that a name cannot contain.
        digest.update(os.fsencode(name) + b'\0')
    return digest.hexdigest()


def _equal_counts(classes: Sequence[str], sizes: np.ndarray, num_labels: int) -> list[int]:
    """Return the number of images to draw of each class, all the same."""
    each, rest = divmod(num_labels, len(classes))
    if rest:
        near = [str(count * len(classes)) for count in (each, each + 1) if count]
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
    return [each] * len(classes)


def _proportional_counts(classes: Sequence[str], sizes: np.ndarray, num_labels: int) -> list[int]:
    """Return the number of images to draw of each class, in the proportions of the data."""
    counts = _largest_remainder(sizes, num_labels)
    if counts.all():
        return counts.tolist()
    # ``sure`` is always enough, but rounding may make a smaller number enough.
    sure = -(-int(sizes.sum()) // int(sizes.min()))
    enough = next(
        count for count in range(num_labels + 1, sure + 1) if _largest_remainder(sizes, count).all()
    )
    name, size = classes[int(np.argmin(counts))], sizes[int(np.argmin(counts))]
    raise OptionError(
        f'num_labels must be at least {enough} to label an image of class {name!r}, which has '
        f'{size} of {sizes.sum()} images, got {num_labels}'
    )


def _largest_remainder(sizes: np.ndarray, total: int) -> np.ndarray:
    """Return integers (classes,) in proportion to ``sizes`` that sum to ``total``.

    Uses integer arithmetic, so that ties are exact; they go to the first class.
    """
    counts, rests = np.divmod(sizes * total, sizes.sum())
    order = np.argsort(-rests, kind='stable')
    counts[order[: total - counts.sum()]] += 1
    return counts


def _count_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the labels of each class, (classes,) int64."""
    return np.bincount(labels[labels >= 0], minlength=num_classes).astype(np.int64)


def _check_labels(classes: Sequence[str], labels: Any) -> np.ndarray:
    """Return labels as int64 if they are valid for these classes."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in 'iu'):
        raise OptionError(
            f'labels must be one integer for each image, got shape {labels.shape} and type '
            f'{labels.dtype}'
        )
    labels = labels.astype(np.int64)
    if len(classes) == 0:
        raise OptionError('classes must have at least one name, got ()')
    wrong = np.flatnonzero(labels >= len(classes))
    if wrong.size:
        raise OptionError(
            f'labels must be in 0 to {len(classes) - 1}, or negative for an image without a label, '
            f'got {labels[wrong[0]]} for image {wrong[0]}'
        )
    return labels


def _check_content(where: str, content: dict) -> None:
    """Reject the first field of a file that has a wrong type or contradicts another."""

    def refuse(key: str, value: Any, allowed: str) -> None:
        raise OptionError(f'{where}: {key} must be {allowed}, got {_short(value)}')

    def is_count(value: Any, low: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= low

    if not isinstance(content['dataset'], str):
        refuse('dataset', content['dataset'], 'the class name of a data set')
    for key, low in (('num_images', 1), ('num_labels', 1), ('seed', 0)):
        if not is_count(content[key], low):
            refuse(key, content[key], f'an integer >= {low}')
    if not isinstance(content['balanced'], bool):
        refuse('balanced', content['balanced'], 'true or false')
    digest = content['digest']
    if (
        not isinstance(digest, str)
        or len(digest) != DIGEST_LENGTH
        or not set(digest) <= set('0123456789abcdef')
    ):
        refuse('digest', digest, f'{DIGEST_LENGTH} lower-case hexadecimal digits')
    for key in ('classes', 'indices'):
        if not isinstance(content[key], list) or not content[key]:
            refuse(key, content[key], 'a non-empty list')
    for name in content['classes']:
        if not isinstance(name, str):
            refuse('each of classes', name, 'a string')
    seen = set()
    for index in content['indices']:
        # The range is checked against the data set later.
        if not isinstance(index, int) or isinstance(index, bool):
            refuse('each of indices', index, 'an integer')
        if index in seen:
            raise OptionError(f'{where}: indices must be unique, got {index} twice')
        seen.add(index)
    if len(seen) != content['num_labels']:
        refuse('num_labels', content['num_labels'], f'{len(seen)}, the number of indices')


def _short(value: Any) -> str:
    """Return the repr of a value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
