# SPDX-License-Identifier: Apache-2.0
"""Folders as people have them: what is read, what is left out, and what is said about it."""

import os
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

from se_mm.datasets import CSVDataset, ImageFolder
from se_mm.datasets.image_files import (
    ReadPolicy,
    fault_of,
    keep_readable,
    names_of,
    paths_of,
)
from se_mm.datasets.label_split import LabelSplit, draw_split
from se_mm.smoothing import OptionError

pytest.importorskip('mmcv')
LOAD = [dict(type='LoadImageFromFile')]


def image(path, value=100, size=(6, 8), dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.suffix if path.suffix in ('.png', '.tif', '.webp', '.bmp') else '.jpg'
    path.write_bytes(cv2.imencode(ending, np.full((*size, 3), value, dtype))[1].tobytes())
    return path


@pytest.fixture
def root(tmp_path):
    """Two classes of two images."""
    for name in ('bees/1.jpg', 'ants/2.jpg', 'ants/deep er/1.PNG', 'bees/0.webp'):
        image(tmp_path / name)
    return tmp_path


def files(dataset, root):
    return [os.path.relpath(path, root) for path in paths_of(dataset)]


def test_subfolders_are_the_classes_and_files_are_in_the_order_of_their_names(root):
    dataset = ImageFolder(str(root))
    assert dataset.metainfo['classes'] == ('ants', 'bees')
    assert files(dataset, root) == ['ants/2.jpg', 'ants/deep er/1.PNG', 'bees/0.webp', 'bees/1.jpg']
    assert dataset.get_gt_labels().tolist() == [0, 0, 1, 1]


def test_without_labels_all_below_are_read(root):
    image(root / 'top.bmp')
    dataset = ImageFolder(str(root), with_label=False)
    assert len(dataset) == 5 and files(dataset, root)[0] == 'top.bmp'
    assert 'gt_label' not in dataset[0]
    with pytest.raises(KeyError):
        dataset.get_gt_labels()


def test_classes_can_be_given_in_their_order_and_one_may_be_without_images(root):
    dataset = ImageFolder(str(root), classes=['crabs', 'bees', 'ants'])
    assert dataset.metainfo['classes'] == ('crabs', 'bees', 'ants')
    assert dataset.get_gt_labels().tolist() == [1, 1, 2, 2]
    with pytest.raises(OptionError, match='must be named by the classes crabs, bees, got ants'):
        ImageFolder(str(root), metainfo=dict(classes=['crabs', 'bees']))


def test_what_tools_leave_in_folders_is_no_class_and_no_image(root):
    for name in ('.ipynb_checkpoints/1.jpg', '__MACOSX/1.jpg', 'ants/._2.jpg', '.DS_Store'):
        image(root / name)
    dataset = ImageFolder(str(root))
    assert dataset.metainfo['classes'] == ('ants', 'bees') and len(dataset) == 4


def test_what_is_left_out_is_counted_and_said(root, capfd):
    MMLogger.get_instance('left_out', log_level='WARNING')
    for name in ('ants/a.gif', 'ants/b.GIF', 'bees/Thumbs.db', 'bees/README', 'stray.jpg'):
        (root / name).write_text('x')
    dataset = ImageFolder(str(root))
    said = capfd.readouterr().out
    assert '4 images; 5 other files are left out: ' in said
    assert '1 .db, 2 .gif, 1 outside the subfolders (.jpg), 1 without an ending' in said
    assert len(dataset) == 4


def test_links_are_followed_once_and_a_dangling_one_is_named(root):
    (root / 'ants/up').symlink_to(root)
    (root / 'bees/gone.jpg').symlink_to('nowhere.jpg')
    dataset = ImageFolder(str(root), pipeline=LOAD)
    paths = paths_of(dataset)
    assert len(paths) == len(set(paths))
    (index,) = [index for index, path in enumerate(paths) if path.endswith('bees/gone.jpg')][-1:]
    with pytest.raises(OptionError, match=r"gone.jpg' cannot be read: it does not exist; repair"):
        dataset[index]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(data_root='nowhere'), "data_root must be a folder, got 'nowhere'"),
        (dict(data_root='ROOT/antz'), "antz/?' Did you mean '.*ants'|Did you mean '.*ants'"),
        (dict(data_root=''), "data_root must be a folder, got ''"),
        (dict(data_root=3), 'data_root must be a path on this machine, got 3'),
        (
            dict(data_root=['my', 'images']),
            r"must be a path on this machine, got \['my', 'images'\]",
        ),
        (dict(data_prefix='ants'), 'must have images in its subfolders, one for each class'),
        (dict(classes='ants'), "classes must be a list of names, got 'ants'"),
        (dict(with_label='no'), "with_label must be True or False, got 'no'"),
        (dict(unreadable='ignore'), "unreadable must be one of .*, got 'ignore'"),
        (dict(data_root='ROOT/ants/2.jpg'), "data_root must be a folder, got '.*/ants/2.jpg'\\.$"),
        (dict(data_root='$HOME'), r"data_root must be a folder, got '\$HOME'"),
        (
            dict(data_root='s3://bucket/x'),
            "data_root must be a path on this machine, got 's3://bucket/x'",
        ),
        (
            dict(data_prefix='bee'),
            "data_root must be a folder, got '.*/bee'. Did you mean '.*bees'",
        ),
        (dict(data_prefix=None), 'data_prefix must be a path on this machine, got None'),
        (dict(classes=['ants', 'wasps']), 'must be named by the classes ants, wasps, got bees'),
        (dict(classes=['Ants', 'Bees']), 'must be named by the classes Ants, Bees, got ants, bees'),
        (dict(classes=['ants ', 'bees']), 'must be named by the classes ants , bees, got ants'),
        (dict(metainfo=dict(classes=['ants'])), 'must be named by the classes ants, got bees'),
    ],
)
def test_wrong_option_is_one_line(options, message, root):
    shutil.rmtree(root / 'ants/deep er')
    data_root = options.pop('data_root', str(root))
    if isinstance(data_root, str):
        data_root = data_root.replace('ROOT', str(root))
    with pytest.raises(OptionError, match=message) as error:
        ImageFolder(data_root, **options)
    assert '\n' not in str(error.value)


BROKEN = {
    'empty.jpg': (b'', 'it is empty'),
    'page.jpg': (b'<html>404</html>', 'it is damaged or not an image'),
    'mac.png': (b'\0\5\x16\7', 'it is damaged or not an image'),
}


def spoil(root):
    for name, (content, _) in BROKEN.items():
        (root / 'ants' / name).write_bytes(content)


def test_every_kind_of_fault_is_named(root):
    spoil(root)
    for name, (_, fault) in BROKEN.items():
        assert fault_of(str(root / 'ants' / name)) == fault
    assert fault_of(str(root / 'ants')) == 'Is a directory'
    assert fault_of(str(root / 'none.jpg')) == 'it does not exist'
    assert fault_of(str(root / 'ants/2.jpg')) is None


@pytest.mark.parametrize('with_label', [True, False])
def test_policy_is_the_same_for_folders_and_tables(root, with_label, capfd):
    spoil(root)
    table = 'image,label\nants/2.jpg,a\nants/empty.jpg,a\nbees/1.jpg,b\n'
    (root / 'labels.csv').write_text(table)
    builders = [
        lambda **o: ImageFolder(str(root), with_label=with_label, pipeline=LOAD, **o),
        lambda **o: CSVDataset('labels.csv', str(root), pipeline=LOAD, **o),
    ]
    for number, build in enumerate(builders):
        # A logger says the same but once.
        MMLogger.get_instance(f'policy {with_label} {number}', log_level='WARNING')
        strict = build()
        index = [path.endswith('empty.jpg') for path in paths_of(strict)].index(True)
        with pytest.raises(OptionError, match=r"ants/empty.jpg' cannot be read: it is empty"):
            strict[index]
        skipping = build(unreadable='skip')
        for _ in range(3):
            assert skipping[index]['img'] is not None
        lines = [line for line in capfd.readouterr().out.splitlines() if 'empty.jpg' in line]
        assert len(lines) == 1 and 'is skipped: it is empty' in lines[0]


def test_nothing_readable_ends(root):
    for path in paths_of(ImageFolder(str(root))):
        open(path, 'w').close()
    dataset = ImageFolder(str(root), pipeline=LOAD, unreadable='skip')
    with pytest.raises(OptionError, match='none of the 4 images can be read'):
        dataset[0]
    with pytest.raises(OptionError, match=r'val: none of its 4 images can be read'):
        keep_readable('val', dataset)


def test_evaluation_set_loses_what_cannot_be_read_or_is_refused(root):
    spoil(root)
    with pytest.raises(OptionError, match=r'val: image .*\(3 files are unreadable\)'):
        keep_readable('val', ImageFolder(str(root)))
    whole = ImageFolder(str(root), unreadable='skip')
    kept = keep_readable('val', whole)
    assert len(whole) == 7 and files(kept, root) == [
        'ants/2.jpg',
        'ants/deep er/1.PNG',
        'bees/0.webp',
        'bees/1.jpg',
    ]
    assert kept.get_gt_labels().tolist() == [0, 0, 1, 1]
    assert kept.metainfo['classes'] == ('ants', 'bees')


def test_fault_of_the_pipeline_keeps_its_own_error():
    policy = ReadPolicy('skip')
    with pytest.raises(ZeroDivisionError):
        policy.read(None, lambda: 1 / 0)


def test_what_is_in_a_file_is_read_as_documented(tmp_path):
    """docs/howto/images.md, Which files are read."""
    Image = pytest.importorskip('PIL.Image')
    grey = np.full((4, 6), 4080, np.uint16)
    cv2.imwrite(str(tmp_path / 'deep.png'), grey)
    picture = Image.fromarray(np.full((4, 6, 3), 90, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by 90 degrees.
    picture.save(tmp_path / 'turned.jpg', exif=exif)
    clear = picture.convert('RGBA')
    clear.putalpha(0)
    clear.save(tmp_path / 'clear.png')
    picture.convert('L').save(tmp_path / 'grey.png')
    dataset = ImageFolder(str(tmp_path), with_label=False, pipeline=LOAD)
    read = {os.path.basename(item['img_path']): item['img'] for item in dataset}
    assert {name: (img.dtype.name, img.ndim) for name, img in read.items()} == {
        name: ('uint8', 3) for name in ('deep.png', 'turned.jpg', 'clear.png', 'grey.png')
    }
    assert read['deep.png'].max() == 4080 // 256
    assert read['turned.jpg'].shape == (6, 4, 3)
    assert read['clear.png'].min() == 90


NAMES = st.text(
    st.characters(exclude_characters='/\0', exclude_categories=['Cs']), min_size=1, max_size=20
).filter(lambda name: not name.startswith('.') and len(name.encode()) < 200)


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(NAMES, st.lists(NAMES, min_size=1, unique=True), min_size=2, max_size=4))
def test_any_names_of_classes_and_files_are_read_back(tmp_path_factory, tree):
    tree = {name: inner for name, inner in tree.items() if name != '__MACOSX'}
    root = tmp_path_factory.mktemp('tree')
    content = cv2.imencode('.png', np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    for name, inner in tree.items():
        (root / name).mkdir()
        for file in inner:
            (root / name / f'{file}.png').write_bytes(content)
    if not tree:
        return
    dataset = ImageFolder(str(root), pipeline=LOAD)
    assert dataset.metainfo['classes'] == tuple(sorted(tree))
    expected = sorted((name, f'{file}.png') for name, inner in tree.items() for file in inner)
    assert [tuple(file.split('/')) for file in files(dataset, root)] == expected
    assert all(item['img'].shape == (1, 1, 3) for item in dataset)
    moved = root.with_name(f'{root.name}, moved')
    names = names_of(dataset)
    root.rename(moved)
    assert names_of(ImageFolder(str(moved))) == names


@pytest.mark.parametrize(
    'names, warned',
    [
        (('train/ants/1.png', 'train/bees/1.png', 'test/ants/1.png', 'test/bees/1.png'), True),
        (('my_images/ants/1.png', 'my_images/bees/1.png'), True),
        (('ants/day 1/1.png', 'ants/day 2/1.png', 'bees/day 1/1.png'), True),
        (('ants/day 1/1.png', 'ants/2.png', 'bees/day 1/1.png'), False),
        (('ants/nest a/1.png', 'bees/hive b/1.png'), False),
        (('ants/1.png', 'bees/1.png'), False),
    ],
)
def test_folder_one_level_too_high_is_said(names, warned, tmp_path, capfd):
    for name in names:
        image(tmp_path / name)
    MMLogger.get_instance(f'level {len(names)} {warned}', log_level='WARNING')
    ImageFolder(str(tmp_path))
    said = capfd.readouterr()
    assert ('is data_root one level too high?' in said.out + said.err) == warned


@pytest.mark.parametrize('other', ['Ants', 'ＡＮＴＳ', 'ａnts'])
def test_folders_that_look_alike_are_said_to_be_different_classes(other, root, capfd):
    image(root / other / '1.jpg')
    MMLogger.get_instance(f'alike {other}', log_level='WARNING')
    assert len(ImageFolder(str(root)).metainfo['classes']) == 3
    said = capfd.readouterr()
    assert 'are different classes, which differ only in' in said.out + said.err


@pytest.mark.parametrize('name', ['.', 'ants', 'ants/deep er'])
def test_folder_that_cannot_be_listed_is_an_error_and_not_an_empty_one(name, root, monkeypatch):
    scandir = os.scandir

    def forbidden(path):
        if os.path.samefile(path, root / name):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', forbidden)
    with pytest.raises(OptionError, match='must be readable, got: Permission denied'):
        ImageFolder(str(root))


@pytest.mark.parametrize(
    'name',
    [b'\xff.png', b'a\nb.png', b'\xe2\x80\x8b.png', b' .png', b'-.png', b'%d{}.png', b'"\'.png'],
)
def test_odd_names_of_files_are_read_and_written_into_splits(name, root):
    source = root / 'ants/deep er/1.PNG'
    shutil.copy(source, os.path.join(os.fsencode(root / 'ants'), name))
    dataset = ImageFolder(str(root), pipeline=LOAD)
    assert len(dataset) == 5 and all(item['img'].shape == (6, 8, 3) for item in dataset)
    found = draw_split(
        'ImageFolder',
        dataset.metainfo['classes'],
        dataset.get_gt_labels(),
        num_labels=4,
        seed=0,
        names=names_of(dataset),
    )
    found.save(root / 'split.json')
    again = LabelSplit.load(root / 'split.json')
    again.check(
        root / 'split.json',
        'ImageFolder',
        dataset.metainfo['classes'],
        dataset.get_gt_labels(),
        names_of(dataset),
    )


def test_it_is_built_from_a_config(root):
    assert len(DATASETS.build(dict(type='ImageFolder', data_root=str(root)))) == 4
