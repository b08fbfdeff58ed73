# SPDX-License-Identifier: Apache-2.0
"""tools/voc_to_coco.py: what it writes, and what it refuses in one line."""

import json
import re

import pytest

COMMAND = ('voc_to_coco.py', 'voc', '--classes', 'cat', 'dog')
SIZE = '<size><width>40</width><height>30</height></size>'


def box(name='dog', corners=(1, 1, 40, 30), difficult=0):
    keys = ('xmin', 'ymin', 'xmax', 'ymax')
    numbers = ''.join(f'<{key}>{number}</{key}>' for key, number in zip(keys, corners))
    return (
        f'<object><name>{name}</name><difficult>{difficult}</difficult>'
        f'<bndbox>{numbers}</bndbox></object>'
    )


@pytest.fixture
def voc(tools):
    """A folder with three images: two in train, one each in val and test."""
    voc = tools.folder / 'voc'
    for name in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (voc / name).mkdir(parents=True)
    for stem, boxes in (
        ('a', box() + box('cat', (11, 6, 20, 25), 1)),
        ('b 1', ''),
        ('c', box(corners=(7, 7, 7, 7))),
    ):
        (voc / f'Annotations/{stem}.xml').write_text(f'<annotation>{SIZE}{boxes}</annotation>')
        (voc / f'JPEGImages/{stem}.jpg').touch()
    for name, stems in (('train', 'a\nb 1\n'), ('val', 'c\n'), ('test', 'b 1\n')):
        (voc / f'ImageSets/Main/{name}.txt').write_text(stems)
    return voc


def test_lists_are_written_with_boxes_that_include_their_corners(tools, voc):
    output = tools.succeed(*COMMAND)
    train, val, test = (
        json.loads((voc / f'annotations/{name}.json').read_text())
        for name in ('train', 'val', 'test')
    )
    names = [[image['file_name'] for image in part['images']] for part in (train, val, test)]
    assert names == [['a.jpg', 'b 1.jpg'], ['c.jpg'], ['b 1.jpg']]
    assert train['images'][0] == {'id': 0, 'file_name': 'a.jpg', 'width': 40, 'height': 30}
    assert train['annotations'] == [
        {
            'id': 0,
            'image_id': 0,
            'category_id': 1,
            'bbox': [0, 0, 40, 30],
            'area': 1200,
            'iscrowd': 0,
        },
        {
            'id': 1,
            'image_id': 0,
            'category_id': 0,
            'bbox': [10, 5, 10, 20],
            'area': 200,
            'iscrowd': 1,
        },
    ]
    assert val['annotations'][0]['bbox'] == [6, 6, 1, 1]
    assert train['categories'] == [{'id': 0, 'name': 'cat'}, {'id': 1, 'name': 'dog'}]
    assert 'train.json: 2 images, 1 of 2 boxes are learned (left out: 1 of a crowd)' in output


def test_coco_s_own_tools_read_what_is_written(tools, voc):
    coco_tools = pytest.importorskip('pycocotools.coco')
    tools.succeed(*COMMAND, '--lists', 'train', '--out', 'coco')
    coco = coco_tools.COCO(tools.folder / 'coco/train.json')
    assert len(coco.getAnnIds(imgIds=[0], iscrowd=False)) == 1


def test_nothing_is_overwritten(tools, voc):
    (voc / 'annotations').mkdir()
    (voc / 'annotations/test.json').write_text('mine')
    assert "test.json' already exists" in tools.fail(*COMMAND)
    assert [path.name for path in voc.glob('annotations/*')] == ['test.json']
    assert (voc / 'annotations/test.json').read_text() == 'mine'


@pytest.mark.parametrize(
    'content, message',
    [
        (SIZE + '<object><name>dog</name></object>', r'object\[0\]: bndbox/xmin, .* numbers, got'),
        (SIZE + box(corners=(1, 1, 'x', 2)), r"object\[0\]: bndbox/xmin, .* got \['1', '1', 'x'"),
        (SIZE + box() + box(corners=(0, 1, 9, 9)), r'object\[1\]: bndbox must lie in 40 x 30'),
        (SIZE + box(corners=(1, 1, 41, 9)), r'bndbox must lie .*, got \[1.0, 1.0, 41.0, 9.0\]'),
        (SIZE + box(corners=(9, 1, 8, 9)), 'bndbox must lie in 40 x 30 pixels'),
        (SIZE + box(corners=(1, 1, 'nan', 9)), 'bndbox must lie in 40 x 30 pixels'),
        (SIZE + box('dgo'), r"object\[0\].name must be one of .*, got 'dgo'.*'dog'"),
        (box(), r'size/width, size/height must be numbers, got \[None, None\]'),
        ('<size>', 'cannot be read: mismatched tag'),
    ],
)
def test_wrong_annotation_is_one_line_with_file_and_entry(tools, voc, content, message):
    (voc / 'Annotations/c.xml').write_text(f'<annotation>{content}</annotation>')
    line = tools.fail(*COMMAND)
    assert re.search(rf"Annotations/c\.xml'.*{message}", line)
    assert not (voc / 'annotations').exists()


@pytest.mark.parametrize(
    'missing, message',
    [
        ('Annotations/c.xml', "Annotations/c.xml' cannot be read: .*No such file"),
        ('JPEGImages/c.jpg', "Annotations/c.xml' must have an image in JPEGImages, got none"),
        ('ImageSets/Main/val.txt', "--lists=val: No such file or directory: .*val.txt'"),
    ],
)
def test_missing_file_is_one_line_and_writes_nothing(tools, voc, missing, message):
    (voc / missing).unlink()
    assert re.search(message, tools.fail(*COMMAND))
    assert not (voc / 'annotations').exists()
