# SPDX-License-Identifier: Apache-2.0
"""Read and check annotation files in COCO's format, and count their boxes."""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from se_mm.smoothing.options import OptionError, did_you_mean

KEYS = ('images', 'annotations', 'categories')
SLICE = 2**20
"""Bytes after the key in which the categories are searched before reading the whole file."""


@dataclass(frozen=True)
class BoxCounts:
    """Number of boxes that mmdet learns from, and of dropped ones by reason.

    Attributes:
        usable: Boxes that are learned.
        reasons: Reason -> number of dropped boxes.
    """

    usable: int
    reasons: Mapping[str, int]

    @property
    def dropped(self) -> int:
        """Number of boxes that are not learned."""
        return sum(self.reasons.values())

    def __str__(self) -> str:
        if not self.usable + self.dropped:
            return 'there are no boxes'
        if not self.dropped:
            return f'all {self.usable} boxes are learned'
        reasons = ', '.join(f'{count} {reason}' for reason, count in self.reasons.items())
        return f'{self.dropped} of {self.usable + self.dropped} boxes are not learned ({reasons})'


def count_boxes(coco: Mapping[str, Any], category_ids: Optional[Collection] = None) -> BoxCounts:
    """Count the boxes that mmdet's ``CocoDataset`` learns from.

    Args:
        coco: Contents of a file as returned by :func:`read_coco`.
        category_ids: Ids of the categories to learn. None: all in the file.
    """
    if category_ids is None:
        category_ids = [category['id'] for category in coco['categories']]
    category_ids = set(category_ids)
    images = {image['id']: image for image in coco['images']}
    fates = Counter(
        _fate(annotation, images[annotation['image_id']], category_ids)
        for annotation in coco['annotations']
    )
    usable = fates.pop('', 0)
    return BoxCounts(usable, dict(sorted(fates.items())))


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
    """Read the categories of a file, without the rest of it if possible.

    Raises:
        OptionError: If the file cannot be read or its categories are invalid.
    """
    try:
        with (
            open(path, 'rb') as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            for match in re.finditer(rb'"categories"\s*:\s*', content):
                text = content[match.end() : match.end() + SLICE].decode(errors='ignore')
                found = json.JSONDecoder().raw_decode(text)[0]
                if isinstance(found, list) and found and isinstance(found[0], dict):
                    _check_categories(_where(path), found)
                    return found
    except OptionError:
        raise
    except (OSError, ValueError):
        pass  # Reading the whole file reports the error.
    return read_coco(path)['categories']


def read_coco(path: Union[str, Path]) -> dict[str, Any]:
    """Read an annotation file, and reject what mmdet could not read or would misread.

    Ids keep their type, integer or string.

    Raises:
        OptionError: If the file does not exist, or for the first invalid entry.
    """
    path = Path(path)
    where = _where(path)
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
    missing = [key for key in KEYS if not isinstance(found.get(key), list)]
    if missing:
        raise OptionError(f"{where} must be in COCO's format, got no list of {', '.join(missing)}")
    if not coco['images']:
        raise OptionError(f'{where} must have images, got none')
    _check_images(where, coco['images'])
    _check_categories(where, coco['categories'])
    _check_annotations(where, coco)
    return coco


def _where(path: Union[str, Path]) -> str:
    return f'annotations={str(path)!r}'


def _check_images(where: str, images: list) -> None:
    _check_ids(where, 'images', images)
    for number, image in enumerate(images):
        place = f'{where}: images[{number}]'
        _require(place, image, 'file_name', isinstance(image.get('file_name'), str), 'a path')
        for key in ('width', 'height'):
            size = image.get(key)
            _require(place, image, key, _is_number(size) and size > 0, 'a number > 0')
    paths = (os.path.normpath(image['file_name']) for image in images)
    _check_once(where, 'images', 'file_name', paths)


def _check_categories(where: str, categories: list) -> None:
    _check_ids(where, 'categories', categories)
    for number, category in enumerate(categories):
        is_name = isinstance(category.get('name'), str)
        _require(f'{where}: categories[{number}]', category, 'name', is_name, 'a string')
    _check_once(where, 'categories', 'name', [category['name'] for category in categories])


def _check_annotations(where: str, coco: dict) -> None:
    annotations = coco['annotations']
    _check_ids(where, 'annotations', annotations)
    for key, owners in (('image_id', coco['images']), ('category_id', coco['categories'])):
        known = {owner['id'] for owner in owners}
        texts = {str(identity) for identity in known}
        for number, annotation in enumerate(annotations):
            given = annotation.get(key)
            if not _is_id(given) or given not in known:
                other = ' of the same type' if str(given) in texts else ''
                what = 'images' if key == 'image_id' else 'categories'
                raise OptionError(
                    f'{where}: annotations[{number}].{key} must be an id in {what}{other}, got '
                    f'{given!r}'
                )
    for number, annotation in enumerate(annotations):
        place, box = f'{where}: annotations[{number}]', annotation.get('bbox')
        is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
        _require(place, annotation, 'bbox', is_box, 'four numbers')
        # mmdet drops NaN boxes, but learns from infinite ones.
        _require(place, annotation, 'bbox', not any(map(math.isinf, box)), 'finite numbers')
        _require(place, annotation, 'area', _is_number(annotation.get('area')), 'a number')


def _check_ids(where: str, key: str, entries: list) -> None:
    """Check that ids are unique, and all integers or all strings."""
    for number, entry in enumerate(entries):
        place = f'{where}: {key}[{number}]'
        if not isinstance(entry, dict):
            raise OptionError(f'{place} must be an object, got {_short(entry)}')
        _require(place, entry, 'id', _is_id(entry.get('id')), 'an integer or a string')
        if type(entry['id']) is not type(entries[0]['id']):
            raise OptionError(
                f'{place}.id must be of the same type as the others, got {entry["id"]!r} beside '
                f'{entries[0]["id"]!r}'
            )
    _check_once(where, key, 'id', [entry['id'] for entry in entries])


def _check_once(where: str, key: str, field: str, values: Iterable) -> None:
    seen: dict[Any, int] = {}
    for number, value in enumerate(values):
        if seen.setdefault(value, number) != number:
            raise OptionError(
                f'{where}: {key}[{number}].{field} must be unique, got {value!r} as in '
                f'{key}[{seen[value]}]'
            )


def _require(place: str, entry: dict, key: str, holds: bool, wanted: str) -> None:
    if not holds:
        given = f'got {_short(entry[key])}' if key in entry else 'got none'
        raise OptionError(f'{place}.{key} must be {wanted}, {given}')


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Return whether it is a float, or an integer that a float can hold."""
    if isinstance(value, int):
        return not isinstance(value, bool) and value.bit_length() <= sys.float_info.max_exp - 1
    return isinstance(value, float)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
