# SPDX-License-Identifier: Apache-2.0
"""Splits of detection sets are exact, without replacement, nested, and read by mmdet."""

import json
import random
import subprocess
import sys
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from se_mm.datasets import DigitScenes
from se_mm.datasets.coco_files import draw_coco_split, split_coco
from se_mm.smoothing import OptionError

IDS = st.one_of(
    st.lists(kind, min_size=3, max_size=300, unique=True)
    for kind in (st.integers(0, 2**53), st.integers(-(2**70), 2**70), st.text(max_size=8))
)
FOLDS = st.integers(1, 20)


@given(IDS, st.floats(0.01, 60), FOLDS, st.integers(0, 99))
def test_count_is_exact_and_nothing_is_drawn_twice(ids, percent, fold, seed):
    drawn = draw_coco_split(ids, percent, fold, seed)
    assert len(drawn) == len(set(drawn)) == max(1, round(percent * len(ids) / 100))
    assert set(drawn) < set(ids)
    assert list(drawn) == sorted(drawn)


@given(IDS, FOLDS)
def test_few_percent_are_among_many(ids, fold):
    draws = [set(draw_coco_split(ids, percent, fold)) for percent in (1, 5, 20, 50)]
    assert all(fewer <= more for fewer, more in pairwise(draws))


@given(IDS, FOLDS, st.randoms())
def test_order_of_the_images_does_not_matter(ids, fold, order):
    shuffled = list(ids)
    order.shuffle(shuffled)
    assert draw_coco_split(shuffled, 30, fold) == draw_coco_split(ids, 30, fold)


def test_folds_and_seeds_differ_and_every_image_is_equally_likely():
    ids = range(50)
    draws = [draw_coco_split(ids, 20, fold) for fold in range(1, 401)]
    assert len(set(draws)) == 400
    assert draw_coco_split(ids, 20, 1, seed=1) != draws[0]
    counts = np.bincount(np.concatenate(draws), minlength=50)
    # Each is drawn 80 times in the mean, with a deviation of 8.
    assert abs(counts - 80).max() < 40


def test_draw_is_the_same_in_another_process_and_leaves_the_generators_alone():
    np.random.seed(0)
    random.seed(0)
    expected = np.random.rand(), random.random()
    np.random.seed(0)
    random.seed(0)
    drawn = draw_coco_split(range(100), 10, 2)
    assert (np.random.rand(), random.random()) == expected
    code = (
        'from se_mm.datasets.coco_files import draw_coco_split; '
        'print(draw_coco_split(range(100), 10, 2))'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == str(drawn)


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((range(9), 0), r'percent must be a number in \(0, 100\), got 0'),
        ((range(9), 100), 'percent must be a number .*, got 100'),
        ((range(9), 99), 'percent must leave an unlabelled image, got 99 of 9 images'),
        ((range(9), 10, 0), 'fold must be an integer >= 1, got 0'),
        ((range(9), 10, 1, -1), 'seed must be an integer >= 0, got -1'),
    ],
)
def test_draw_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(OptionError, match=message):
        draw_coco_split(*arguments)


@pytest.fixture
def coco():
    """The annotations of twenty scenes."""
    return deepcopy(DigitScenes(num_images=20).coco())


def test_parts_are_the_whole_and_the_unlabelled_has_no_annotations(coco):
    drawn = draw_coco_split([image['id'] for image in coco['images']], 25)
    labelled, unlabelled = split_coco(coco, drawn)
    assert {image['id'] for image in labelled['images']} == set(drawn)
    assert {a['image_id'] for a in labelled['annotations']} == set(drawn)
    both = [*labelled['images'], *unlabelled['images']]
    assert sorted(both, key=lambda image: image['id']) == coco['images']
    assert unlabelled['annotations'] == []
    assert labelled['categories'] == unlabelled['categories'] == coco['categories']


@pytest.mark.parametrize('kind', [int, str, lambda number: f'{number:012d}'])
def test_mmdet_reads_both_parts(coco, tmp_path, kind):
    datasets = pytest.importorskip('mmdet.datasets')
    for image in coco['images']:
        image['id'] = kind(image['id'])
    for annotation in coco['annotations']:
        annotation['image_id'] = kind(annotation['image_id'])
    parts = split_coco(coco, draw_coco_split([image['id'] for image in coco['images']], 25))
    sizes = []
    for number, part in enumerate(parts):
        (tmp_path / f'{number}.json').write_text(json.dumps(part))
        dataset = datasets.CocoDataset(
            data_root=str(tmp_path),
            ann_file=f'{number}.json',
            data_prefix=dict(img=''),
            metainfo=dict(classes=tuple('0123456789')),
            filter_cfg=dict(filter_empty_gt=number == 0),
            pipeline=[],
        )
        sizes.append(len(dataset))
        boxes = sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset)))
        assert boxes == len(part['annotations'])
    assert sizes == [5, 15]
