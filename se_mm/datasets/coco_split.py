# SPDX-License-Identifier: Apache-2.0
"""Draw the labelled images of a COCO-format detection set: exact, without replacement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Union

import numpy as np

from se_mm.smoothing.options import OptionError, check_count, check_number

Id = Union[int, str]


def draw_coco_split(
    image_ids: Iterable[Id], percent: float, fold: int = 1, seed: int = 0
) -> tuple[Id, ...]:
    """Draw the labelled images of a fold.

    A fold is a random order of the images, and its first ``percent`` % are labelled, so the images
    of 1 % are among those of 10 %. The order of ``image_ids`` does not matter, and global random
    generators are not used.

    Args:
        image_ids: Unique ids of all images, integers or strings.
        percent: Labelled images in %, in (0, 100); rounded to the nearest image, at least one.
        fold: Number of the fold, from 1.
        seed: Seed of all folds.

    Returns:
        The ids of the labelled images, sorted.

    Raises:
        OptionError: If an argument is out of range, or no image would be left unlabelled.
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
    """Split the contents of an annotation file.

    Args:
        coco: The contents.
        labelled: Ids of the labelled images.

    Returns:
        The labelled and the unlabelled part, each with all other entries of the file. The
        unlabelled part has no annotations, so that nobody trains on them by mistake.
    """
    chosen = set(labelled)
    parts: list[dict] = []
    for is_labelled in (True, False):
        images = [image for image in coco['images'] if (image['id'] in chosen) == is_labelled]
        annotations = [a for a in coco['annotations'] if is_labelled and a['image_id'] in chosen]
        parts.append({**coco, 'images': images, 'annotations': annotations})
    return parts[0], parts[1]
