# SPDX-License-Identifier: Apache-2.0
"""Splits: as many labels as asked for, the same for a seed, and refused for other data."""

import dataclasses
import hashlib
import json
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.datasets.label_split import LabelSplit, digest_data, draw_split
from se_mm.smoothing import OptionError

CLASSES = ('cat', 'dog', 'Ente äöü')
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0, -1, 0, 0, 1])

sizes_of_classes = st.lists(st.integers(1, 12), min_size=1, max_size=6)
seeds = st.integers(0, 2**32)


def draw(num_labels=6, seed=0, balanced=True, labels=LABELS, classes=CLASSES):
    return draw_split('Animals', classes, labels, num_labels, seed, balanced)


def labels_of(sizes, seed, without=0):
    """Labels of classes of these sizes, and some images without a label, in a random order."""
    labels = np.repeat(np.arange(-1, len(sizes)), [without, *sizes])
    return np.random.default_rng(seed).permutation(labels)


def names(sizes):
    return [f'class {index}' for index in range(len(sizes))]


def counts_of(split, labels):
    return np.bincount(labels[list(split.indices)], minlength=len(split.classes))


def check_drawn(split, labels, num_labels):
    """What holds for every split."""
    assert split.num_labels == len(split.indices) == len(set(split.indices)) == num_labels
    assert list(split.indices) == sorted(split.indices)
    assert all(type(index) is int and labels[index] >= 0 for index in split.indices)
    assert split.num_images == len(labels)
    split.check('split.json', split.dataset, split.classes, labels)


@settings(max_examples=60, deadline=None)
@given(sizes_of_classes, seeds, st.integers(0, 5), st.data())
def test_balanced_split_has_equally_many_of_each_class(sizes, seed, without, data):
    labels = labels_of(sizes, seed, without)
    each = data.draw(st.integers(1, min(sizes)))
    split = draw_split('Set', names(sizes), labels, each * len(sizes), seed)
    check_drawn(split, labels, each * len(sizes))
    assert counts_of(split, labels).tolist() == [each] * len(sizes)


@settings(max_examples=100, deadline=None)
@given(sizes_of_classes, seeds, st.integers(0, 5), st.data())
def test_other_split_is_in_the_proportions_of_the_data_or_says_how_many_are_enough(
    sizes, seed, without, data
):
    labels = labels_of(sizes, seed, without)
    num_labels = data.draw(st.integers(1, sum(sizes)))
    try:
        split = draw_split('Set', names(sizes), labels, num_labels, seed, balanced=False)
    except OptionError as error:
        enough = int(re.search(r'at least (\d+) to label', str(error)).group(1))
        assert num_labels < enough <= sum(sizes)
        for few in range(num_labels + 1, enough):
            with pytest.raises(OptionError, match=f'at least {enough} to label'):
                draw_split('Set', names(sizes), labels, few, seed, balanced=False)
        split = draw_split('Set', names(sizes), labels, enough, seed, balanced=False)
        num_labels = enough
    check_drawn(split, labels, num_labels)
    exact = np.array(sizes) * num_labels / sum(sizes)
    counts = counts_of(split, labels)
    assert (np.abs(counts - exact) < 1).all()
    # Largest remainder: whoever was rounded up had no smaller a rest than who was rounded down.
    rests = exact - np.floor(exact + 1e-9)
    up = counts > exact + 1e-9
    if up.any():
        down = ~up & (rests > 1e-9)
        assert rests[up].min() >= rests[down].max(initial=0) - 1e-9


@settings(max_examples=30, deadline=None)
@given(seeds, seeds, st.booleans())
def test_seed_alone_decides(seed, other, balanced):
    labels = np.arange(400) % 4
    first = draw_split('Set', 'abcd', labels, 40, seed, balanced)
    np.random.seed(other % 2**32)
    assert first == draw_split('Set', list('abcd'), labels.astype(np.uint8), 40, seed, balanced)
    if seed != other:
        assert first.indices != draw_split('Set', 'abcd', labels, 40, other, balanced).indices


def test_global_random_generator_is_left_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    draw()
    assert np.random.get_state()[1].tolist() == before


def test_every_image_of_a_class_is_drawn_equally_often():
    labels = np.repeat([0, 1], 10)
    drawn = [index for seed in range(1000) for index in draw(4, seed, True, labels, 'ab').indices]
    # 200 of 1,000 each, with a standard deviation of 12.6.
    assert np.abs(np.bincount(drawn, minlength=20) - 200).max() < 55


def test_more_labels_of_the_same_seed_contain_the_fewer():
    labels = np.arange(100) % 5
    few, more = (draw(count, 7, True, labels, 'abcde').indices for count in (10, 50))
    assert set(few) < set(more)


def test_unbalanced_example():
    assert counts_of(draw(6, balanced=False), LABELS).tolist() == [3, 2, 1]


def test_file_gives_the_split_back_and_can_be_read_by_people(tmp_path):
    split = draw()
    path = tmp_path / 'new' / 'folder' / 'split.json'
    split.save(path)
    assert LabelSplit.load(path) == LabelSplit.load(str(path)) == split
    assert [file.name for file in path.parent.iterdir()] == ['split.json']
    text = path.read_text(encoding='utf-8')
    assert 'Ente äöü' in text
    assert len(text.splitlines()) == 10
    content = json.loads(text)
    assert content['indices'] == list(split.indices)
    assert content['digest'] == hashlib.sha256(struct.pack('<12q', *LABELS)).hexdigest()


def test_order_of_the_indices_in_a_file_does_not_matter(tmp_path):
    path = write(tmp_path, indices=list(draw().indices)[::-1])
    assert LabelSplit.load(path) == draw()


def test_file_that_cannot_be_replaced_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / 'split.json').mkdir()
    with pytest.raises(OptionError, match=r"split='.*split\.json' cannot be written"):
        draw().save(tmp_path / 'split.json')
    assert [file.name for file in tmp_path.iterdir()] == ['split.json']
    (tmp_path / 'file').touch()
    with pytest.raises(OptionError, match=r"split='.*split\.json' cannot be written"):
        draw().save(tmp_path / 'file' / 'split.json')


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(num_labels=7),
            'num_labels must be a multiple of the number of classes, 3, got 7; use 6 or 9, or '
            'balanced=False to draw in the proportions of the data',
        ),
        (dict(num_labels=2), 'of the number of classes, 3, got 2; use 3, or balanced=False'),
        (
            dict(num_labels=9),
            "num_labels must be at most 6, since class 'Ente äöü' has only 2 images, got 9; or set "
            'balanced=False',
        ),
        (dict(num_labels=0), 'num_labels must be an integer >= 1, got 0'),
        (dict(num_labels=6.0), 'num_labels must be an integer >= 1, got 6.0'),
        (dict(num_labels=True), 'num_labels must be an integer >= 1, got True'),
        (
            dict(num_labels=12),
            'num_labels must be at most 11, the number of images of Animals with a label, got 12',
        ),
        (dict(seed=-1), 'seed must be an integer >= 0, got -1'),
        (dict(seed=None), 'seed must be an integer >= 0, got None'),
        (dict(balanced=1), 'balanced must be True or False, got 1'),
        (
            dict(num_labels=2, balanced=False),
            "num_labels must be at least 4 to label an image of class 'Ente äöü', which has 2 of "
            '11 images, got 2',
        ),
        (
            dict(classes=(*CLASSES, 'bird'), num_labels=4),
            "Animals must have a labelled image of every class, got none of 'bird'",
        ),
        (dict(classes=(*CLASSES, 'bird'), balanced=False), "of every class, got none of 'bird'"),
        (
            dict(classes=CLASSES[:2]),
            'labels of Animals must be in 0 to 1, got 2 for image 2 and 1 more',
        ),
        (dict(classes=()), 'labels of Animals must be in 0 to -1, got 0 for image 0'),
        (dict(labels=np.array([], int)), "of every class, got none of 'cat'"),
    ],
)
def test_split_that_cannot_be_drawn_is_one_line(options, message):
    with pytest.raises(OptionError, match=re.escape(message)) as error:
        draw(**options)
    assert '\n' not in str(error.value)


def write(folder, without=(), **changes):
    """A file of the split with changes made by hand."""
    draw().save(folder / 'split.json')
    content = json.loads((folder / 'split.json').read_text(encoding='utf-8'))
    content.update(changes)
    for key in without:
        del content[key]
    (folder / 'split.json').write_text(json.dumps(content))
    return folder / 'split.json'


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(without=['seed']), "must be a JSON object of dataset, .*argument: 'seed'"),
        (dict(sed=1), "must be a JSON object of dataset, .*unexpected keyword argument 'sed'"),
        (dict(classes=None), 'must be a JSON object of .*NoneType'),
        (dict(indices=3), 'must be a JSON object of .*int'),
        (dict(indices=[0, '1']), 'must be a JSON object of .*str'),
    ],
)
def test_wrong_field_of_a_file_is_one_line_that_names_the_file(changes, message, tmp_path):
    path = write(tmp_path, **changes)
    with pytest.raises(OptionError, match=message) as error:
        LabelSplit.load(path)
    assert str(error.value).startswith(f'split={str(path)!r}')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'must be a JSON object .*: Expecting value'),
        (b'{"dataset": ', 'must be a JSON object of dataset, classes, .*: '),
        (b'\xff\xfe', 'must be a JSON object of dataset, classes, .*: '),
        (b'[' * 100_000, 'must be a JSON object of dataset, classes, .*: '),
        (b'[1, 2]', 'must be a JSON object .*, not list'),
        (b'null', 'must be a JSON object .*, not NoneType'),
    ],
    ids=['empty', 'cut', 'bytes', 'deep', 'list', 'null'],
)
def test_file_that_is_no_split_is_one_line(content, message, tmp_path):
    path = tmp_path / 'split.json'
    path.write_bytes(content)
    with pytest.raises(OptionError, match=message) as error:
        LabelSplit.load(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_file_that_is_not_there_is_one_line_with_the_nearest(tmp_path):
    write(tmp_path)
    with pytest.raises(
        OptionError,
        match=r"cannot be read: No such file or directory. Did you mean '.*split\.json'",
    ):
        LabelSplit.load(tmp_path / 'splt.json')
    with pytest.raises(OptionError, match='cannot be read'):
        LabelSplit.load(tmp_path)


def swapped(labels, first, second):
    labels = labels.copy()
    labels[[first, second]] = labels[[second, first]]
    return labels


@pytest.mark.parametrize(
    'given, message',
    [
        (dict(dataset='Plants'), 'another data set: 12 images of Animals, not 12 of Plants'),
        (dict(labels=LABELS[:-1]), 'another data set: 12 images of Animals, not 11 of Animals'),
        (dict(labels=swapped(LABELS, 0, 1)), 'other labels or another order of the images'),
    ],
)
def test_split_of_other_data_is_refused(given, message):
    given = {'dataset': 'Animals', 'classes': CLASSES, 'labels': LABELS, **given}
    with pytest.raises(OptionError, match=re.escape(message)) as error:
        draw().check('a/split.json', **given)
    assert str(error.value).startswith("split='a/split.json' was drawn from ")
    draw().check('a/split.json', 'Animals', list(CLASSES), LABELS.copy())


@pytest.mark.parametrize(
    'classes, message',
    [
        ((*CLASSES, 'd'), 'got cat, dog, Ente äöü, d: with d'),
        (('cat', 'cow', 'Ente äöü'), 'got cat, cow, Ente äöü: without dog and with cow'),
    ],
)
def test_split_of_other_classes_is_refused(classes, message):
    must = "classes of Animals must be those of split='a/split.json' (cat, dog, Ente äöü), "
    with pytest.raises(OptionError, match=re.escape(must + message)):
        draw().check('a/split.json', 'Animals', classes, LABELS)


@pytest.mark.parametrize(
    'indices, message',
    [
        ((0, 1, 12), 'indices must be integers in 0 to 11, of images with a label, got 12'),
        ((-1, 0, 1), 'in 0 to 11, of images with a label, got -1'),
        ((0, 1, 10**30), f'in 0 to 11, of images with a label, got {10**30}'),
        ((0, 1, 8), 'in 0 to 11, of images with a label, got 8'),
        ((0, 1, 2.0), 'in 0 to 11, of images with a label, got 2.0'),
        ((0, 1, True), 'in 0 to 11, of images with a label, got True'),
        ((0, 1, 2, 3), 'num_labels must be the number of different indices, 4, got 3'),
        ((0, 1, 1), 'num_labels must be the number of different indices, 2, got 3'),
        ((0, 3, 5), "must have a labelled image of every class, got none of 'dog'"),
    ],
)
def test_indices_that_cannot_be_used_are_refused(indices, message):
    split = dataclasses.replace(draw(), indices=indices, num_labels=3)
    with pytest.raises(OptionError, match=re.escape(message)):
        split.check('split.json', 'Animals', CLASSES, LABELS)


FILES = ['a/0.png', 'a/1.png', 'b, c/0.png', 'ü 蚂蚁.png']


def test_split_knows_the_image_files_and_not_where_they_are():
    labels = np.array([0, 1, 0, 1])
    split = draw_split('Set', 'ab', labels, 2, 0, True, FILES)
    assert split.indices == draw_split('Set', 'ab', labels, 2, 0, True).indices
    split.check('split.json', 'Set', 'ab', labels, FILES)
    # The labels are the same, and other images would be taken for the labelled ones.
    for other in ([*FILES[2:], *FILES[:2]], [*FILES[:3], 'c.png']):
        with pytest.raises(
            OptionError, match='drawn from other image files, other labels or another'
        ):
            split.check('split.json', 'Set', 'ab', labels, other)


def test_split_without_file_names_is_refused_where_there_are_files():
    labels = np.array([0, 1, 0, 1])
    without = draw_split('Set', 'ab', labels, 2)
    with pytest.raises(OptionError, match='drawn from other image files'):
        without.check('split.json', 'Set', 'ab', labels, FILES)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters='/\0', codec='utf-8')), min_size=2))
def test_digest_tells_every_list_of_names_from_its_neighbours(names):
    labels = np.zeros(len(names), np.int64)
    digest = digest_data(labels, names)
    assert digest == digest_data(labels, list(names))
    assert digest != digest_data(labels)
    joined = [names[0] + names[1], '', *names[2:]]
    if joined != names:
        assert digest != digest_data(labels, joined)
    if names[::-1] != names:
        assert digest != digest_data(labels, names[::-1])
