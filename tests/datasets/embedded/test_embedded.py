# SPDX-License-Identifier: Apache-2.0
"""The embedded sets: drawn the same every time, balanced, and like any other OpenMMLab dataset."""

import random

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import DataLoader

from se_mm.datasets import Digits, Glyphs
from se_mm.datasets.embedded.glyphs import _draw_set
from se_mm.smoothing import OptionError


def images_of(dataset):
    return np.stack([dataset[i]['img'] for i in range(len(dataset))])


def flat(dataset):
    return images_of(dataset).reshape(len(dataset), -1) / 255.0


@pytest.mark.parametrize(
    'cfg',
    [dict(type='Digits'), dict(type='Glyphs', num_images=40, size=24)],
    ids=lambda c: c['type'],
)
def test_item_is_what_openmmlab_pipelines_expect(cfg):
    dataset = DATASETS.build(cfg)
    item = dataset[3]
    size = cfg.get('size', 32)
    assert item['img'].shape == (size, size, 3)
    assert item['img'].dtype == np.uint8
    assert isinstance(item['gt_label'], int)
    assert item['sample_idx'] == 3
    assert item['img_shape'] == item['ori_shape'] == (size, size)
    assert item['gt_label'] < len(dataset.metainfo['classes'])


def test_writing_into_an_item_does_not_change_the_set():
    dataset = Glyphs(num_images=4)
    before = dataset[0]['img'].copy()
    dataset[0]['img'][:] = 0
    assert np.array_equal(dataset[0]['img'], before)


def test_the_same_seed_draws_the_same_images_and_another_seed_others():
    first = images_of(Glyphs(num_images=30, seed=5))
    _draw_set.cache_clear()
    second, other = (images_of(Glyphs(num_images=30, seed=seed)) for seed in (5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_an_image_does_not_depend_on_how_many_are_drawn():
    assert np.array_equal(images_of(Glyphs(num_images=10)), images_of(Glyphs(num_images=60))[:10])


def test_train_and_test_have_no_image_in_common():
    splits = [
        {image.tobytes() for image in images_of(Glyphs(split, num_images=200))}
        for split in ('train', 'test')
    ]
    assert len(splits[0]) == len(splits[1]) == 200
    assert not splits[0] & splits[1]
    digits = [
        {image.tobytes() for image in images_of(Digits(split))}
        for split in ('train', 'test', 'all')
    ]
    assert digits[0] | digits[1] == digits[2]
    assert not digits[0] & digits[1]


@pytest.mark.parametrize('num_classes', [2, 20, 52])
def test_classes_are_equally_frequent(num_classes):
    labels = Glyphs(num_images=2 * num_classes, num_classes=num_classes).get_gt_labels()
    assert np.bincount(labels).tolist() == [2] * num_classes


def test_digits_are_scikit_learns():
    dataset = Digits('all', size=8)
    assert len(dataset) == 1797
    assert dataset.get_gt_labels().tolist() == load_digits().target.tolist()
    grey = images_of(dataset)[..., 0] * (16 / 255)
    assert np.abs(grey - load_digits().images).max() < 0.1
    assert (len(Digits()), len(Digits('test'))) == (1500, 297)


def test_making_a_set_leaves_the_global_random_generators_alone():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    Glyphs(num_images=20)
    Digits('test')
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_contrast_of_the_background_makes_the_letters_harder():
    def accuracy(contrast):
        train = Glyphs('train', num_images=1000, contrast=contrast, num_classes=5)
        test = Glyphs('test', num_images=400, contrast=contrast, num_classes=5)
        probe = KNeighborsClassifier(1).fit(flat(train), train.get_gt_labels())
        return probe.score(flat(test), test.get_gt_labels())

    easy, hard = accuracy(0.1), accuracy(1.0)
    assert easy > hard + 0.1
    assert hard > 0.25  # Chance is 0.2: the letters can still be told apart.


def test_digits_are_easy():
    train, test = Digits('train'), Digits('test')
    probe = KNeighborsClassifier(1).fit(flat(train), train.get_gt_labels())
    assert probe.score(flat(test), test.get_gt_labels()) > 0.95


def test_workers_and_pipelines_of_mmpretrain_take_them():
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    view = [dict(type='RandomResizedCrop', scale=16), dict(type='Invert', prob=0.5)]
    pipeline = [dict(type='MultiView', num_views=2, transforms=[view]), dict(type='PackInputs')]
    dataset = DATASETS.build(dict(type='Glyphs', num_images=12, pipeline=pipeline))
    loader = DataLoader(dataset, batch_size=6, num_workers=2, collate_fn=list)
    items = [item for batch in loader for item in batch]
    assert len(items) == 12
    assert [tuple(view.shape) for view in items[0]['inputs']] == [(3, 16, 16)] * 2
    assert [int(item['data_samples'].gt_label) for item in items] == list(range(12))


def test_indices_choose_images():
    assert len(Glyphs(num_images=30, indices=7)) == 7
    chosen = Glyphs(num_images=30, indices=[4, 9])
    assert np.array_equal(chosen[1]['img'], Glyphs(num_images=30)[9]['img'])


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(type='Glyphs', split='val'), "split must be one of 'train', 'test'"),
        (dict(type='Glyphs', num_classes=53), 'from 2 to 52'),
        (dict(type='Glyphs', num_classes=1), 'num_classes must be an integer >= 2, got 1'),
        (dict(type='Glyphs', num_images=0), 'num_images must be an integer >= 1, got 0'),
        (dict(type='Glyphs', size=8), 'size must be an integer >= 16, got 8'),
        (dict(type='Glyphs', contrast=1.5), r'contrast must be a number in \[0, 1\], got 1.5'),
        (dict(type='Glyphs', seed=-1), 'seed must be an integer >= 0, got -1'),
        (dict(type='Digits', split='val'), "split must be one of .*, got 'val'"),
        (dict(type='Digits', size=7), 'size must be an integer >= 8, got 7'),
    ],
)
def test_wrong_option_is_refused_when_the_set_is_built(cfg, message):
    with pytest.raises(OptionError, match=message):
        DATASETS.build(cfg)
