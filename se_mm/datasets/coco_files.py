# SPDX-License-Identifier: Apache-2.0
"""Annotation files in COCO's format: check them, count their boxes, draw labelled images."""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from se_mm.smoothing.options import OptionError, check_count, check_number, did_you_mean

Id = Union[int, str]
SLICE = 2**20
"""Bytes after the key in which the categories are searched before reading the whole file."""


@dataclass(frozen=True)
class BoxCounts:
    """Number of boxes, of those that mmdet learns from, and of the others by reason."""

    total: int
    usable: int
    reasons: Mapping[str, int]

    def __str__(self) -> str:
        reasons = ', '.join(f'{count} {reason}' for reason, count in self.reasons.items())
        others = f' (left out: {reasons})' if reasons else ''
        return f'{self.usable} of {self.total} boxes are learned{others}'


def count_boxes(coco: Mapping[str, Any], category_ids: Optional[Collection] = None) -> BoxCounts:
    """Count the boxes that mmdet's ``CocoDataset`` learns, of some categories or of all."""
    if category_ids is None:
        category_ids = [category['id'] for category in coco['categories']]
    images = {image['id']: image for image in coco['images']}
    fates = Counter(
        _fate(annotation, images[annotation['image_id']], category_ids)
        for annotation in coco['annotations']
    )
    usable = fates.pop('', 0)
    return BoxCounts(len(coco['annotations']), usable, dict(sorted(fates.items())))


def _fate(annotation: Mapping, image: Mapping, category_ids: Collection) -> str:
    """Return why ``CocoDataset.parse_data_info`` drops a box; empty if it is learned."""
    x, y, width, height = annotation['bbox']
    if annotation.get('ignore'):
        return 'marked to be ignored'
    if not all(map(math.isfinite, annotation['bbox'])):
        return 'not finite'
    if width <= 0 or height <= 0 or annotation['area'] <= 0:
        return 'without area'
    columns = min(x + width, image['width']) - max(x, 0)
    rows = min(y + height, image['height']) - max(y, 0)
    if max(columns, 0) * max(rows, 0) == 0:
        return 'outside the image'
    if width < 1 or height < 1:
        return 'smaller than a pixel'
    if annotation['category_id'] not in category_ids:
        return 'of another category'
    return 'of a crowd' if annotation.get('iscrowd') else ''


def read_categories(path: Union[str, Path]) -> list[dict]:
    """Read the categories of a file, without the rest of it if possible."""
    found = None
    with (
        suppress(OSError, ValueError, RecursionError),  # Reading the whole file reports it.
        open(path, 'rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if match := re.search(rb'"categories"\s*:\s*(?=\[\s*\{)', content):
            text = content[match.end() : match.end() + SLICE].decode(errors='ignore')
            found = json.JSONDecoder().raw_decode(text)[0]
    if found is None:
        return read_coco(path)['categories']
    _check_entries(f'annotations={str(path)!r}', 'categories', found)
    return found


def read_coco(path: Union[str, Path]) -> dict[str, Any]:
    """Read an annotation file, and reject what mmdet could not read or would misread.

    OptionError names the first invalid entry. Ids keep their type, integer or string.
    """
    path = Path(path)
    where = f'annotations={str(path)!r}'
    try:
        coco = json.loads(path.read_bytes().decode())
    except OSError as error:
        names = [str(child) for child in path.parent.glob('*.json')]
        raise OptionError(
            f'{where} cannot be read: {error.strerror}.{did_you_mean(path, names)}'
        ) from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f'{where} cannot be read as JSON: {error}') from error
    found = coco if isinstance(coco, dict) else {}
    if missing := [key for key in FIELDS if not isinstance(found.get(key), list)]:
        raise OptionError(f"{where} must be in COCO's format, got no list of {', '.join(missing)}")
    if not coco['images']:
        raise OptionError(f'{where} must have images, got none')
    for key in FIELDS:
        _check_entries(where, key, coco[key])
    for field, owners in (('image_id', 'images'), ('category_id', 'categories')):
        known = {owner['id'] for owner in coco[owners]}
        for number, annotation in enumerate(coco['annotations']):
            if annotation[field] not in known:
                raise OptionError(
                    f'{where}: annotations[{number}].{field} must be an id in {owners} of the same '
                    f'type, got {annotation[field]!r}'
                )
    return coco


def draw_coco_split(
    image_ids: Iterable[Id], percent: float, fold: int = 1, seed: int = 0
) -> tuple[Id, ...]:
    """Draw the labelled images of a fold, without replacement.

    A fold is a random order of the images, and its first ``percent`` % are labelled, so the images
    of 1 % are among those of 10 %. The order of ``image_ids`` does not matter.

    Args:
        image_ids: Unique ids of all images, integers or strings.
        percent: Labelled images in %, in (0, 100); rounded to the nearest image, at least one.
        fold: Number of the fold, from 1.
        seed: Seed of all folds.

    Returns:
        The ids of the labelled images, sorted.
    """
    check_number('percent', percent, 0, 100, open_low=True, open_high=True)
    check_count('fold', fold, 1)
    check_count('seed', seed)
    ids = sorted(image_ids)
    count = max(1, round(percent * len(ids) / 100))
    if count >= len(ids):
        raise OptionError(
            f'percent must leave an unlabelled image, got {percent!r} of {len(ids)} images'
        )
    order = np.random.default_rng((seed, fold)).permutation(len(ids))
    return tuple(ids[place] for place in sorted(order[:count]))


def split_coco(coco: dict[str, Any], labelled: Iterable[Id]) -> tuple[dict, dict]:
    """Split the contents of a file into those of the ``labelled`` images and of the others.

    The unlabelled part has no annotations, so that they cannot be used by mistake.
    """
    chosen = set(labelled)
    annotations = [a for a in coco['annotations'] if a['image_id'] in chosen]
    images: tuple[list, list] = [], []
    for image in coco['images']:
        images[image['id'] not in chosen].append(image)
    return (
        {**coco, 'images': images[0], 'annotations': annotations},
        {**coco, 'images': images[1], 'annotations': []},
    )


def _is_number(value: Any) -> bool:
    """Return whether it is a float, or an integer that a float can hold."""
    if isinstance(value, int):
        return not isinstance(value, bool) and value.bit_length() < sys.float_info.max_exp
    return isinstance(value, float)


def _is_box(value: Any) -> bool:
    # mmdet drops NaN boxes, but learns from infinite ones.
    is_list = isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
    return is_list and not any(map(math.isinf, value))


Check = tuple[str, Callable[[Any], bool]]
ID: Check = 'an integer or a string', lambda value: type(value) in (int, str)
TEXT: Check = 'a string', lambda value: isinstance(value, str)
SIZE: Check = 'a number > 0', lambda value: _is_number(value) and value > 0
FIELDS: dict[str, dict[str, Check]] = {
    'images': {'id': ID, 'file_name': TEXT, 'width': SIZE, 'height': SIZE},
    'categories': {'id': ID, 'name': TEXT},
    'annotations': {
        'id': ID,
        'image_id': ID,
        'category_id': ID,
        'bbox': ('four numbers, none infinite', _is_box),
        'area': ('a number', _is_number),
    },
}
"""What the fields of each list must be, with a function that returns whether they are."""


def _check_entries(where: str, key: str, entries: list) -> None:
    """Check the entries of one list by themselves."""
    for number, entry in enumerate(entries):
        place = f'{where}: {key}[{number}]'
        if not isinstance(entry, dict):
            raise OptionError(f'{place} must be an object, got {entry!r:.60}')
        for field, (wanted, holds) in FIELDS[key].items():
            if not holds(entry.get(field)):
                given = f'{entry[field]!r:.60}' if field in entry else 'none'
                raise OptionError(f'{place}.{field} must be {wanted}, got {given}')
        if type(entry['id']) is not type(entries[0]['id']):
            raise OptionError(
                f'{place}.id must be of the same type as the others, got {entry["id"]!r} beside '
                f'{entries[0]["id"]!r}'
            )
    _check_unique(f'{where}: {key}', 'id', [entry['id'] for entry in entries])
    if key == 'images':
        paths = [os.path.normpath(image['file_name']) for image in entries]
        _check_unique(f'{where}: {key}', 'file_name', paths)
    elif key == 'categories':
        _check_unique(f'{where}: {key}', 'name', [category['name'] for category in entries])


def _check_unique(where: str, field: str, values: list) -> None:
    first: dict[Id, int] = {}
    for number, value in enumerate(values):
        if first.setdefault(value, number) != number:
            raise OptionError(
                f'{where}[{number}].{field} must be unique, got {value!r} as in entry '
                f'{first[value]}'
            )
