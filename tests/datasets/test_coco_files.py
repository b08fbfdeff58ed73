# SPDX-License-Identifier: Apache-2.0
"""Annotation files: wrong entries are named, and boxes are counted as mmdet counts them."""

import json
import math
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.datasets import DigitScenes
from se_mm.datasets.coco_files import SLICE, count_boxes, read_categories, read_coco
from se_mm.smoothing import OptionError


@pytest.fixture
def coco():
    """The annotations of four scenes."""
    return deepcopy(DigitScenes(num_images=4).coco())


def written(folder, content):
    path = folder / 'x.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def put(*steps):
    """A change of what is at some place in a file."""

    def change(coco):
        *places, value = steps
        for place in places[:-1]:
            coco = coco[place]
        if value is ...:
            del coco[places[-1]]
        else:
            coco[places[-1]] = value

    return change


WRONG = [
    (put('images', 2, 'id', None), r'images\[2\].id must be an integer or a string, got None'),
    (put('images', 2, 'id', True), r'images\[2\].id must be an integer or a string, got True'),
    (put('images', 2, 'id', 3.0), r'images\[2\].id must be an integer or a string, got 3.0'),
    (put('images', 2, 'id', [3]), r'images\[2\].id must be an integer or a string'),
    (put('images', 2, 'id', '3'), r"images\[2\].id must be of the same type .*got '3' beside 1"),
    (put('images', 2, 'id', 1), r'images\[2\].id must be unique, got 1 as in images\[0\]'),
    (put('images', 2, 'id', ...), r'images\[2\].id must be an integer or a string, got none'),
    (put('images', 2, 'a.jpg'), r"images\[2\] must be an object, got 'a.jpg'"),
    (put('images', 2, 'file_name', ...), r'images\[2\].file_name must be a path, got none'),
    (put('images', 2, 'width', 0), r'images\[2\].width must be a number > 0, got 0'),
    (put('images', 2, 'height', '96'), r"images\[2\].height must be a number > 0, got '96'"),
    (put('images', []), 'must have images, got none'),
    (put('images', ...), 'got no list of images'),
    (put('annotations', {}), 'got no list of annotations'),
    (put('categories', 1, 'id', 1), r'categories\[1\].id must be unique, got 1 as in'),
    (put('categories', 1, 'name', '0'), r"categories\[1\].name must be unique, got '0' as in"),
    (put('categories', 1, 'name', ...), r'categories\[1\].name must be a string, got none'),
    (put('categories', 1, 'washer'), r"categories\[1\] must be an object, got 'washer'"),
    (put('annotations', 3, 'id', 1), r'annotations\[3\].id must be unique, got 1 as in'),
    (put('annotations', 3, 'id', ...), r'annotations\[3\].id must be an integer or a string'),
    (put('annotations', 3, 'image_id', 99), r'annotations\[3\].image_id must be an id in images'),
    (put('annotations', 3, 'image_id', '1'), 'an id in images of the same type, got'),
    (put('annotations', 3, 'image_id', None), r'annotations\[3\].image_id must be an id in images'),
    (put('annotations', 3, 'category_id', 99), r'category_id must be an id in categories, got 99'),
    (put('annotations', 3, 'category_id', '1'), 'an id in categories of the same type'),
    (put('annotations', 3, 'category_id', []), 'an id in categories, got'),
    (put('annotations', 3, 'bbox', [1, 2, 3]), r'annotations\[3\].bbox must be four numbers'),
    (put('annotations', 3, 'bbox', [1, 2, 3, None]), 'bbox must be four numbers'),
    (put('annotations', 3, 'bbox', [0, 0, math.inf, 1]), 'bbox must be finite numbers'),
    (put('annotations', 3, 'area', ...), r'annotations\[3\].area must be a number, got none'),
]


@pytest.mark.parametrize('change, message', WRONG)
def test_entry_that_is_wrong_is_named_in_one_line(coco, change, message, tmp_path):
    change(coco)
    with pytest.raises(OptionError, match=message) as error:
        read_coco(written(tmp_path, coco))
    assert 'x.json' in str(error.value) and '\n' not in str(error.value)


def test_two_entries_for_one_image_file_are_refused(coco, tmp_path):
    coco['images'][1]['file_name'] = coco['images'][0]['file_name']
    with pytest.raises(OptionError, match=r'images\[1\].file_name must be unique'):
        read_coco(written(tmp_path, coco))


@pytest.mark.parametrize('text', ['{', '', '[' * 100_000, 'null', '[]', '3'])
def test_file_that_is_no_annotation_file_is_refused_in_one_line(text, tmp_path):
    for read in (read_coco, read_categories):
        with pytest.raises(OptionError, match=r"annotations='.*x.json'") as error:
            read(written(tmp_path, text))
        assert '\n' not in str(error.value)


def test_missing_file_is_named_with_the_nearest(tmp_path):
    (tmp_path / 'train.json').write_text('{}')
    with pytest.raises(OptionError, match=r"cannot be read: No such.*Did you mean '.*train.json'"):
        read_coco(tmp_path / 'trian.json')


def test_categories_are_read_wherever_they_are_in_the_file(coco, tmp_path):
    categories = coco['categories']
    rest = {key: value for key, value in coco.items() if key != 'categories'}
    decoy = {'info': {'categories': 'see "categories": [below]', 'pad': 'x' * SLICE}}
    last = {**decoy, **rest, 'categories': categories}
    for content in ({'categories': categories, **rest}, last):
        assert read_categories(written(tmp_path, content)) == categories


NUMBERS = st.one_of(
    st.floats(-30, 130), st.sampled_from([0, 1, 0.5, 96, 95.5, -1, math.nan, 1e-9, 1e30])
)
BOX = st.fixed_dictionaries(
    {
        'bbox': st.lists(NUMBERS, min_size=4, max_size=4),
        'area': st.sampled_from([0, -1, 1, 50.0, math.nan]),
        'category_id': st.integers(1, 3),
    },
    optional={'iscrowd': st.integers(0, 1), 'ignore': st.booleans()},
)


@settings(deadline=None, max_examples=150)
@given(st.lists(BOX, min_size=1, max_size=12))
def test_boxes_are_counted_as_mmdet_takes_them(tmp_path_factory, boxes):
    datasets = pytest.importorskip('mmdet.datasets')
    annotations = [{**box, 'id': n, 'image_id': 1} for n, box in enumerate(boxes, 1)]
    coco = {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 96, 'height': 96}],
        'annotations': annotations,
        'categories': [{'id': n, 'name': str(n)} for n in (1, 2, 3)],
    }
    path = written(tmp_path_factory.mktemp('boxes'), coco)
    dataset = datasets.CocoDataset(
        ann_file=str(path), data_prefix=dict(img=''), metainfo=dict(classes=('1', '3')), pipeline=[]
    )
    taken = [i for i in dataset.get_data_info(0)['instances'] if not i['ignore_flag']]
    counts = count_boxes(read_coco(path), [1, 3])
    assert counts.usable == len(taken)
    assert counts.usable + counts.dropped == len(boxes)
