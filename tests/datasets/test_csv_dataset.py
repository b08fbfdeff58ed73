# SPDX-License-Identifier: Apache-2.0
"""A user's own CSV: read as spreadsheets write it, and refused with the line that is wrong."""

import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.dataset import Compose
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope

import se_mm.datasets.csv_dataset  # noqa: F401 -- registers CSVDataset
from se_mm.smoothing import OptionError

IMAGES = ('a.png', 'b.png', 'sub/c.png', 'd.png')


@pytest.fixture
def root(tmp_path):
    """A folder with images ``images/a.png`` and so on, of one grey each."""
    (tmp_path / 'images' / 'sub').mkdir(parents=True)
    for grey, name in enumerate(IMAGES):
        cv2.imwrite(str(tmp_path / 'images' / name), np.full((4, 5, 3), grey, np.uint8))
    return tmp_path


def build(root, text, **options):
    """The data set of a file with this text."""
    content = text if isinstance(text, bytes) else text.encode()
    (root / 'labels.csv').write_bytes(content)
    given = dict(ann_file='labels.csv', data_root=str(root), data_prefix='images')
    return DATASETS.build(dict(type='CSVDataset', **{**given, **options}))


def test_rows_become_images_and_labels(root):
    text = 'image,label\na.png,dog\nb.png,cat\nsub/c.png,dog\n'
    dataset = build(root, text)
    assert dataset.metainfo['classes'] == ('cat', 'dog')
    assert dataset.get_gt_labels().tolist() == [1, 0, 1]
    assert dataset.get_gt_labels().dtype == np.int64
    assert len(dataset) == 3
    assert dataset[2] == {
        'img_path': str(root / 'images' / 'sub/c.png'),
        'gt_label': 1,
        'sample_idx': 2,
    }


def test_classes_give_the_order_of_the_labels(root):
    dataset = build(root, 'image,label\na.png,dog\nb.png,cat\n', classes=['dog', 'cow', 'cat'])
    assert dataset.metainfo['classes'] == ('dog', 'cow', 'cat')
    assert dataset.get_gt_labels().tolist() == [0, 2]


@pytest.mark.parametrize(
    'text',
    [
        '\ufeffimage,label\r\na.png,dog\r\nb.png,cat\r\n',
        'image,label\na.png,dog\n\nb.png,cat\n\n \n',
        ' image , label\n a.png , dog\nb.png,\tcat',
        'id,label,image,note\n1,dog,a.png,\n2,cat,b.png,"one, two"\n',
        '"image","label"\n"a.png","dog"\n"b.png","cat"\n',
        'id,label,image\n"1\n2",dog,a.png\n3,cat,b.png\n',
    ],
    ids=['excel', 'blank lines', 'spaces', 'other columns', 'quoted', 'line breaks'],
)
def test_what_spreadsheets_write_is_read(text, root):
    dataset = build(root, text)
    assert dataset.metainfo['classes'] == ('cat', 'dog')
    assert [dataset[index]['gt_label'] for index in range(2)] == [1, 0]


@pytest.mark.parametrize(
    'text, classes',
    [
        ('image,label,\na.png,x,\nb.png,y,\n', ('x', 'y')),
        ('image,label\ra.png,x\rb.png,y\r', ('x', 'y')),
        ('image,label\nb.png,y\na.png,x', ('x', 'y')),
        ('image,label\na.png,10\nb.png,9\n', ('10', '9')),
        ('image,label\na.png,"x, y"\nb.png,x\n', ('x', 'x, y')),
        ('image,label\na.png,"say ""x"""\nb.png,x\n', ('say "x"', 'x')),
        ('image,label\n./a.png,x\nsub/../b.png,y\n', ('x', 'y')),
        ('image,label\na.png,nan\nb.png,None\n', ('None', 'nan')),
        ('image,label\na.png,\U0001f41d\nb.png,虫\n', ('虫', '\U0001f41d')),
    ],
)
def test_what_else_people_have_is_read(text, classes, root):
    dataset = build(root, text)
    assert dataset.metainfo['classes'] == classes and len(dataset) == 2


@pytest.mark.parametrize('other', ['Bee', 'b\uff45e', 'BEE'])
def test_classes_that_look_alike_are_said_to_be_different(other, root, capfd):
    MMLogger.get_instance(f'alike {other}', log_level='WARNING')
    build(root, f'image,label\na.png,bee\nb.png,{other}\nd.png,ant\n')
    said = capfd.readouterr()
    assert 'are different classes, which differ only in' in said.out + said.err
    build(root, f'image,label\na.png,bee\nb.png,{other}\n', classes=['bee', other])
    said = capfd.readouterr()
    assert 'different classes' not in said.out + said.err


def test_columns_may_have_other_names(root):
    options = dict(image_column='Datei', label_column='Größe')
    dataset = build(root, 'label,Datei,Größe\nx,a.png,klein\ny,b.png,groß\n', **options)
    assert dataset.metainfo['classes'] == ('groß', 'klein')


def test_paths_may_be_absolute_or_relative_to_where_the_run_is_started(root, monkeypatch):
    monkeypatch.chdir(root / 'images')
    text = 'image,label\na.png,x\n'
    assert build(root, text, data_prefix=str(root / 'images'))[0]['img_path'].endswith('/a.png')
    options = dict(ann_file='../labels.csv', data_root='', data_prefix='')
    assert build(root, text, **options)[0]['img_path'] == 'a.png'


def test_image_may_be_in_another_folder(root):
    cv2.imwrite(str(root / 'e.png'), np.zeros((4, 5, 3), np.uint8))
    dataset = build(root, f'image,label\n../e.png,x\n{root}/images/a.png,y\n')
    assert len(dataset) == 2 and dataset[1]['img_path'] == f'{root}/images/a.png'
    with pytest.raises(OptionError, match=r'line 3: image must be unique, .* as in line 2'):
        build(root, f'image,label\n../e.png,x\n{root}/e.png,y\n')


def test_image_may_be_a_link_to_somewhere_else(root):
    (root / 'images' / 'link.png').symlink_to(root / 'labels.csv')
    assert len(build(root, 'image,label\nlink.png,x\n')) == 1


def test_indices_and_pipelines_work_as_in_other_data_sets(root):
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    text = 'image,label\na.png,x\nb.png,y\nsub/c.png,y\n'
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = build(root, text, indices=[2, 0], pipeline=pipeline)
    assert isinstance(dataset.pipeline, Compose)
    assert dataset.get_gt_labels().tolist() == [1, 0]
    assert dataset[0]['inputs'].unique().tolist() == [2]
    assert dataset[0]['data_samples'].gt_label.tolist() == [1]


@pytest.mark.parametrize(
    'text, message',
    [
        ('', "line 1 must have the image_column 'image' once, got an empty file."),
        ('image,label\n', 'must list at least one image below its header, got none'),
        (
            'imgae,label\na.png,x\n',
            "line 1 must have the image_column 'image' once, got imgae, label. "
            "Did you mean 'imgae'?",
        ),
        (
            'image;label\na.png;x\n',
            "the image_column 'image' once, got image;label. Separate values by commas.",
        ),
        ('image\tlabel\na.png\tx\n', 'once, got image\tlabel. Separate values by commas.'),
        ('image|label\na.png|x\n', 'once, got image|label. Separate values by commas.'),
        ('image label\na.png x\n', "the image_column 'image' once, got image label."),
        ('a.png,x\nb.png,y\n', "the image_column 'image' once, got a.png, x."),
        ('{"image": "a.png"}\n', 'the image_column \'image\' once, got {{"image": '),
        ('<html>\n', "the image_column 'image' once, got <html>."),
        ('Image,Label\na.png,x\n', "'image' once, got Image, Label. Did you mean 'Image'?"),
        (
            'image,image_label\na.png,x\n',
            "the label_column 'label' once, got image, image_label. Did you mean 'image_label'?",
        ),
        ('image,label\nsub\\c.png,x\n', "got 'sub\\\\c.png'; there is no file"),
        ('image,label\n**.png,x\n', "line 2: image must name an image file, got '**.png'"),
        ('image,label\n[.png,x\n', "line 2: image must name an image file, got '[.png'"),
        ('image,label\na.png?raw,x\n', "got 'a.png?raw'; there is no file"),
        ('image,label\nA.png,x\n', "got 'A.png'; there is no file"),
        ('image,label\nhttp://a/b.png,x\n', "got 'http://a/b.png'; there is no file"),
        ('image,label\na.png\0,x\n', 'line 2: image must name an image file'),
        ('image,label\n.,x\n', "line 2: image must name an image file, got '.'"),
        ('image,label\n..,x\n', "line 2: image must name an image file, got '..'"),
        ('image,label\n~/a.png,x\n', "line 2: image must name an image file, got '~/a.png'"),
        ('image,label\n"a.png",x,"",\n', 'line 2 must have 2 values, as many as the header, got 4'),
        (
            'image,label\na.png,x\n# end\n',
            'line 3 must have 2 values, as many as the header, got 1',
        ),
        ('image,label\n' + 'a' * 140_000 + ',x\n', 'line 2: not a CSV file: field larger than'),
        ('image,label\n' + 'a' * 4_000 + ',x\n', 'line 2: image must name an image file'),
        ('image,label\na.png,x\nimages/b.png,x\n', 'line 3: image must name an image file'),
        ('image,label\n"a.png"x,x\n', "line 2: not a CSV file: ',' expected after"),
        ('image,label\na.png,x\n'.encode('utf-16'), r"line 1 must be UTF-8, got b'\xff'"),
        (b'\x1f\x8b\x08\0', r"line 1 must be UTF-8, got b'\x8b'"),
        (b'image,label\r\na.png,x\r\nb.png,\x80\r\n', r"line 3 must be UTF-8, got b'\x80'"),
        (
            'image,Label\na.png,x\n',
            "the label_column 'label' once, got image, Label. Did you mean 'Label'",
        ),
        (
            'image,label,image\n',
            "line 1 must have the image_column 'image' once, got image, label, image.",
        ),
        ('image,label\na.png,x\nb.png,\n', 'line 3: label must not be empty'),
        ('image,label\n , x\n', 'line 2: image must not be empty'),
        ('image,label\n,\n', 'line 2: image must not be empty'),
        (
            'image,label\n\na.png,x,y\n',
            "line 3 must have 2 values, as many as the header, got 3: 'a.png,x,y'; put a value",
        ),
        ('image,label\na.png\n', "must have 2 values, as many as the header, got 1: 'a.png'"),
        (
            'image,label\na.png,x\nb.png,x\n./a.png,x\n',
            "line 4: image must be unique, got './a.png' as in line 2",
        ),
        (
            'image,label\na.png,x\nb.jpg,x\n',
            "line 3: image must name an image file, got 'b.jpg'; there is no file "
            "'{root}/images/b.jpg'. Did you mean '{root}/images/b.png'?",
        ),
        ('image,label\nsub,x\n', "line 2: image must name an image file, got 'sub'"),
        ('image,label\nsub/../../x,x\n', 'line 2: image must name an image file'),
        ('image,label\n/etc/nothing,x\n', "there is no file '/etc/nothing'"),
        (b'image,label\na.png,x\nb.png,\xe4\n', r"line 3 must be UTF-8, got b'\xe4'"),
        ('image,label\na.png,"x\nb.png,x\nd.png,x\n', 'line 2: not a CSV file: unexpected end'),
        ('image,label\n"a\nb.png",x\n', r"line 2: image must name an image file, got 'a\nb.png'"),
    ],
)
def test_wrong_file_is_one_line_that_names_the_line(text, message, root):
    with pytest.raises(OptionError, match=re.escape(message.format(root=root))) as error:
        build(root, text)
    assert str(error.value).startswith(repr(str(root / 'labels.csv')))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(classes=['cat', 'cow']),
            "labels.csv', line 3: label must be one of cat, cow, got 'cta'. Did you mean 'cat'?",
        ),
        (
            dict(classes=[str(n) for n in range(99)]),
            'one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (99 in all), got',
        ),
        (dict(classes='cat'), "classes must be a list of names, got 'cat'"),
        (dict(classes=[]), 'classes must be a list of names, got []'),
        (dict(classes=['0', 1]), 'classes must be names in quotes, each once, got 1'),
        (dict(classes=['a', 'b', 'a']), "classes must be names in quotes, each once, got 'a'"),
        (
            dict(ann_file='label.csv'),
            "label.csv' cannot be read: No such file or directory. Did you mean",
        ),
        (dict(ann_file='images'), "images' cannot be read: Is a directory."),
        (dict(ann_file=''), "ann_file='' cannot be read: Is a directory."),
        (dict(ann_file=None), 'ann_file must be a path on this machine, got None'),
        (
            dict(data_prefix=dict(img='x')),
            "data_prefix must be a path on this machine, got {'img': 'x'}",
        ),
    ],
)
def test_wrong_option_is_one_line(options, message, root):
    with pytest.raises(OptionError, match=re.escape(message)) as error:
        build(root, 'image,label\na.png,cat\nb.png,cta\n', **options)
    assert '\n' not in str(error.value)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*'",\n\r ./x\0é', 'a.png', 'b.png', 'image', 'label']), max_size=25)
)
def test_any_file_is_read_or_refused_in_one_line(tmp_path_factory, parts):
    folder = tmp_path_factory.getbasetemp() / 'any'
    folder.mkdir(exist_ok=True)
    (folder / 'a.png').touch()
    try:
        dataset = build(folder, 'image,label\na.png,x\n' + ''.join(parts), data_prefix='')
    except OptionError as error:
        assert '\n' not in str(error) and repr(str(folder / 'labels.csv')) in str(error)
    else:
        assert len(dataset) >= 1
