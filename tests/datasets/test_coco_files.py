# SPDX-License-Identifier: Apache-2.0
"""Annotation files: wrong entries are named, and boxes are counted as mmdet counts them."""

import gzip
import json
import math
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO

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
    (put('images', 2, 'id', 1), r'images\[2\].id must be unique, got 1 as in entry 0'),
    (put('images', 2, 'id', ...), r'images\[2\].id must be an integer or a string, got none'),
    (put('images', 2, 'a.jpg'), r"images\[2\] must be an object, got 'a.jpg'"),
    (put('images', 2, 'file_name', ...), r'images\[2\].file_name must be a string, got none'),
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
    (
        put('annotations', 3, 'image_id', None),
        r'\[3\].image_id must be an integer or a string, got None',
    ),
    (put('annotations', 3, 'category_id', 99), r'category_id must be an id in categories .*got 99'),
    (put('annotations', 3, 'category_id', '1'), 'an id in categories of the same type'),
    (put('annotations', 3, 'category_id', []), 'must be an integer or a string, got'),
    (put('annotations', 3, 'bbox', [1, 2, 3]), r'annotations\[3\].bbox must be four numbers'),
    (put('annotations', 3, 'bbox', [1, 2, 3, None]), 'bbox must be four numbers'),
    (
        put('annotations', 3, 'bbox', [0, 0, math.inf, 1]),
        'bbox must be four numbers, none infinite, got',
    ),
    (put('annotations', 3, 'area', ...), r'annotations\[3\].area must be a number, got none'),
]


@pytest.mark.parametrize('change, message', WRONG)
def test_entry_that_is_wrong_is_named_in_one_line(coco, change, message, tmp_path):
    change(coco)
    with pytest.raises(OptionError, match=message) as error:
        read_coco(written(tmp_path, coco))
    assert 'x.json' in str(error.value) and '\n' not in str(error.value)


def test_two_entries_for_one_image_file_are_refused(coco, tmp_path):
    coco['images'][1]['file_name'] = f'./{coco["images"][0]["file_name"]}'
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


def each(key, change):
    """A change of every entry of a list."""

    def changed(coco):
        for entry in coco[key]:
            change(entry)

    return changed


def with_ids(new):
    """A change of the ids of all images."""

    def changed(coco):
        for image in coco['images']:
            image['id'] = new(image['id'])
        for annotation in coco['annotations']:
            annotation['image_id'] = new(annotation['image_id'])

    return changed


def as_text(encoding, prefix=''):
    """A file in another encoding."""
    return lambda coco: (prefix + json.dumps(coco, ensure_ascii=False)).encode(encoding)


def spoilt(change):
    """A file whose text is changed."""
    return lambda coco: change(json.dumps(coco)).encode()


FILE_QUIRKS = {
    # What tools and people do to a file -> None if it is read, otherwise what is said.
    'pretty-printed': (lambda coco: json.dumps(coco, indent=2).encode(), None),
    'windows line ends': (spoilt(lambda text: text.replace(', ', ',\r\n')), None),
    'byte order mark': (as_text('utf-8-sig'), 'cannot be read as JSON: .*byte order|BOM'),
    'utf-16': (as_text('utf-16'), 'cannot be read as JSON'),
    'latin-1': (as_text('latin-1', '"ä"'), 'cannot be read as JSON'),
    'zipped': (lambda coco: gzip.compress(b'{}'), 'cannot be read as JSON'),
    'cut off': (spoilt(lambda text: text[:-9]), 'cannot be read as JSON'),
    'comma at the end': (spoilt(lambda text: f'{text[:-1]},}}'), 'cannot be read as JSON'),
    'single quotes': (spoilt(lambda text: text.replace('"', "'")), 'cannot be read as JSON'),
    'two objects': (spoilt(lambda text: f'{text}\n{text}'), 'cannot be read as JSON: Extra data'),
    'one object per line': (spoilt(lambda text: '{"id": 1}\n{"id": 2}'), 'cannot be read as JSON'),
    'a web page': (lambda coco: b'<!doctype html>', 'cannot be read as JSON'),
    'a pointer to large storage': (lambda coco: b'version https://git-lfs', 'cannot be read as JS'),
    'too many digits': (spoilt(lambda text: text.replace('96', '9' * 5000)), 'cannot be read as'),
    'a number beyond float': (spoilt(lambda text: text.replace('96', '9' * 400)), 'width must be'),
    'a list of the images': (lambda coco: json.dumps(coco['images']).encode(), 'no list of images'),
    'results of a detector': (lambda coco: json.dumps(coco['annotations']).encode(), 'no list of'),
}


@pytest.mark.parametrize('name', FILE_QUIRKS)
def test_file_as_tools_write_it_is_read_or_refused(name, coco, tmp_path):
    write, message = FILE_QUIRKS[name]
    path = tmp_path / 'x.json'
    path.write_bytes(write(coco))
    if message is None:
        assert read_coco(path) == coco and read_categories(path) == coco['categories']
        return
    with pytest.raises(OptionError, match=message) as error:
        read_coco(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


READ_QUIRKS = {
    # Changes of the entries that mmdet reads, and boxes that are learned: None: all.
    'no segmentation': (each('annotations', lambda a: a.pop('segmentation', 0)), None),
    'ids with zeros': (with_ids(lambda i: f'{i:012d}'), None),
    'ids that are file names': (with_ids(lambda i: f'a b/{i}.jpg'), None),
    'ids from 0': (with_ids(lambda i: i - 1), None),
    'negative ids': (with_ids(lambda i: -i), None),
    'ids beyond 64 bits': (with_ids(lambda i: 2**70 + i), None),
    'ids in no order': (lambda coco: coco['images'].reverse(), None),
    'annotation ids that are strings': (
        each('annotations', lambda a: a.update(id=f'#{a["id"]}')),
        None,
    ),
    'strange paths': (
        each('images', lambda i: i.update(file_name=f'ü, 蚂蚁/{i["id"]} (1).JPG')),
        None,
    ),
    'sizes with a decimal point': (each('images', lambda i: i.update(width=96.0)), None),
    'boxes with a decimal point': (
        each('annotations', lambda a: a.update(bbox=[float(side) for side in a['bbox']])),
        None,
    ),
    'areas of masks': (each('annotations', lambda a: a.update(area=0.25)), None),
    'other keys': (each('annotations', lambda a: a.update(score=None, attributes={})), None),
    'crowd that is null': (each('annotations', lambda a: a.update(iscrowd=None)), None),
    'crowd that is text': (each('annotations', lambda a: a.update(iscrowd='0')), 0),
    'ignored': (each('annotations', lambda a: a.update(ignore=1)), 0),
    'boxes in parts of the image': (each('annotations', lambda a: a.update(bbox=[0.1] * 4)), 0),
    'corners for sizes': (each('annotations', lambda a: a.update(bbox=[9, 9, 5, 5 - 9])), 0),
    'boxes beyond the image': (each('annotations', lambda a: a.update(bbox=[96, 0, 5, 5])), 0),
    'categories in no order': (lambda coco: coco['categories'].reverse(), None),
    'no annotations': (put('annotations', []), 0),
}


@pytest.mark.parametrize('name', READ_QUIRKS)
def test_entries_as_tools_write_them_are_read_and_learned_as_by_mmdet(name, coco, tmp_path):
    change, learned = READ_QUIRKS[name]
    change(coco)
    counts, (images, boxes) = count_boxes(read_coco(written(tmp_path, coco))), mmdets(tmp_path)
    assert images == 4
    assert counts.usable == boxes == (len(coco['annotations']) if learned is None else learned)


def mmdets(folder):
    """Images and learned boxes of ``x.json`` as mmdet reads it."""
    datasets = pytest.importorskip('mmdet.datasets')
    path = folder / 'x.json'
    with redirect_stdout(StringIO()):
        data = datasets.CocoDataset(
            ann_file=str(path),
            data_prefix=dict(img='images'),
            metainfo=dict(classes=[category['name'] for category in read_categories(path)]),
            pipeline=[],
        )
    items = [data.get_data_info(index) for index in range(len(data))]
    return len(data), sum(not box['ignore_flag'] for item in items for box in item['instances'])


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from([0, 1, 2, 96, '1', '', 'a.jpg', 10**400]),
    ),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.sampled_from('ab'), values),
    max_leaves=5,
)


def places_in(content, above=()):
    """The way to every entry below the top level."""
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in entries if isinstance(content, (dict, list)) else ():
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from places_in(value, (*above, key))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_file_with_any_values_is_read_as_by_mmdet_or_refused_in_one_line(tmp_path_factory, data):
    coco = deepcopy(DigitScenes(num_images=2).coco())
    places = [place for place in places_in(coco) if place[0] in ('images', 'annotations')]
    place = data.draw(st.sampled_from(sorted(places, key=str)))
    put(*place, data.draw(VALUES))(coco)
    folder = tmp_path_factory.mktemp('any')
    try:
        counts = count_boxes(read_coco(written(folder, coco)))
    except OptionError as error:
        assert 'x.json' in str(error) and '\n' not in str(error)
    else:
        assert mmdets(folder) == (len(coco['images']), counts.usable)


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


@settings(deadline=None, max_examples=50)
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
    assert counts.usable + sum(counts.reasons.values()) == counts.total == len(boxes)
