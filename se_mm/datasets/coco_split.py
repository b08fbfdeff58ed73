# SPDX-License-Identifier: Apache-2.0
"""Which images of a detection set in COCO's format are labelled: exact, without replacement."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Union

import numpy as np

from se_mm.smoothing.options import OptionError, check_count, check_number, did_you_mean

KEYS = ('images', 'annotations', 'categories')


def draw_coco_split(
    image_ids: Iterable[int], percent: float, fold: int = 1, seed: int = 0
) -> tuple[int, ...]:
    """Draw the labelled images of a fold.

    A fold is one order of the images, of which the first so many percent are labelled: those of 1 %
    are among those of 10 %. The order of ``image_ids`` does not matter, and no global random
    generator is touched.

    Args:
        image_ids: Ids of all images, each once.
        percent: How many are labelled, in (0, 100): that share to the nearest image, and at least
            one.
        fold: Which order, from 1.
        seed: Seed of all folds.

    Returns:
        The ids of the labelled images, sorted.

    Raises:
        OptionError: If an argument is out of its range, or no image would be left unlabelled.
    """
    check_number('percent', percent, 0, 100, open_low=True, open_high=True)
    check_count('fold', fold, 1)
    check_count('seed', seed)
    ids = np.sort(np.fromiter(image_ids, np.int64))
    count = max(1, round(percent * len(ids) / 100))
    if count >= len(ids):
        raise OptionError(
            f'percent={percent!r} of {len(ids)} images is not allowed: it leaves none unlabelled.'
        )
    order = np.random.default_rng((seed, fold)).permutation(ids)
    return tuple(sorted(order[:count].tolist()))


def split_coco(coco: dict[str, Any], labelled: Iterable[int]) -> tuple[dict, dict]:
    """Divide the contents of an annotation file.

    Args:
        coco: The contents.
        labelled: Ids of the labelled images.

    Returns:
        The labelled and the unlabelled part, each with everything else that the file has. The
        unlabelled part has no annotations, so that nobody trains on them by mistake.
    """
    chosen = set(labelled)
    parts: list[dict] = []
    for is_labelled in (True, False):
        images = [image for image in coco['images'] if (image['id'] in chosen) == is_labelled]
        annotations = [a for a in coco['annotations'] if is_labelled and a['image_id'] in chosen]
        parts.append({**coco, 'images': images, 'annotations': annotations})
    return parts[0], parts[1]


def read_coco(path: Union[str, Path]) -> dict[str, Any]:
    """Read an annotation file, and refuse what could not be divided.

    Raises:
        OptionError: If there is no such file, it is not of COCO's format, has no images, an image
            id twice, or an annotation of an image that it does not have.
    """
    path = Path(path)
    where = f'annotations={str(path)!r}'
    try:
        coco = json.loads(path.read_bytes())
    except OSError as error:
        names = [str(child) for child in path.parent.glob('*.json')]
        raise OptionError(
            f'{where} cannot be read: {error.strerror}.{did_you_mean(path, names)}'
        ) from error
    except ValueError as error:
        raise OptionError(f'{where} cannot be read as JSON: {error}.') from error
    found = coco if isinstance(coco, dict) else {}
    missing = [key for key in KEYS if not isinstance(found.get(key), list)]
    if missing:
        raise OptionError(
            f"{where} is not in COCO's format: it has no list of {', '.join(missing)}."
        )
    for key, fields in (('images', ['id']), ('annotations', ['image_id', 'category_id'])):
        for number, item in enumerate(coco[key]):
            lacking = [f for f in fields if not isinstance(item, dict) or f not in item]
            if lacking:
                raise OptionError(f'{where} has {key}[{number}] without {lacking[0]!r}.')
    if not coco['images']:
        raise OptionError(f'{where} has no images.')
    counts = Counter(image['id'] for image in coco['images'])
    twice = [identity for identity, count in counts.items() if count > 1]
    if twice:
        raise OptionError(f'{where} has the image id {twice[0]!r} more than once.')
    strange = [a['image_id'] for a in coco['annotations'] if a['image_id'] not in counts]
    if strange:
        raise OptionError(
            f'{where} has {len(strange)} annotations of images that it does not have, first of '
            f'image id {strange[0]!r}.'
        )
    return coco
