# SPDX-License-Identifier: Apache-2.0
"""Which images of a detection set in COCO's format are labelled: exact, without replacement."""

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

    A fold is one order of the images, of which the first so many percent are labelled: those of 1 %
    are among those of 10 %. The order of ``image_ids`` does not matter, and no global random
    generator is touched.

    Args:
        image_ids: Ids of all images, each once: integers or strings, which are kept as they are.
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
    ids = sorted(image_ids)  # type: ignore[type-var]
    count = max(1, round(percent * len(ids) / 100))
    if count >= len(ids):
        raise OptionError(
            f'percent must leave an unlabelled image, got {percent!r} of {len(ids)} images'
        )
    order = np.random.default_rng((seed, fold)).permutation(len(ids))
    return tuple(ids[place] for place in sorted(order[:count]))


def split_coco(coco: dict[str, Any], labelled: Iterable[Id]) -> tuple[dict, dict]:
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
