# SPDX-License-Identifier: Apache-2.0
"""The embedded detection set: what is drawn is where the boxes say, always the same."""

import json

import numpy as np
import pytest

from se_mm.datasets import DigitScenes
from se_mm.smoothing import OptionError


@pytest.fixture(scope='module')
def scenes():
    return DigitScenes(num_images=60)


def boxes_of(info):
    return np.array([instance['bbox'] for instance in info['instances']])


def test_boxes_lie_in_the_scene_and_none_over_another(scenes):
    for index in range(len(scenes)):
        boxes = boxes_of(scenes.get_data_info(index))
        assert 1 <= len(boxes) <= 12
        assert (boxes >= 0).all() and (boxes <= 96).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 4).all()
        taken = np.zeros((96, 96), int)
        for left, top, right, bottom in boxes.astype(int):
            taken[top:bottom, left:right] += 1
        assert taken.max() == 1


def test_digit_is_inside_its_box_and_can_be_told_from_what_is_behind_it():
    """Without a photograph behind it, all that is not grey is a digit."""
    scenes = DigitScenes(num_images=30, contrast=0)
    for index in range(len(scenes)):
        info = scenes.get_data_info(index)
        ink = np.abs(info['img'].astype(int) - 128).max(-1) > 40
        inside = np.zeros_like(ink)
        for left, top, right, bottom in boxes_of(info).astype(int):
            inside[top:bottom, left:right] = True
            assert ink[top:bottom, left:right].mean() > 0.1
        assert not (ink & ~inside).any()


def test_scene_does_not_depend_on_how_many_are_drawn(scenes):
    fewer = DigitScenes(num_images=5)
    for index in range(5):
        first, second = scenes.get_data_info(index), fewer.get_data_info(index)
        assert np.array_equal(first['img'], second['img'])
        assert first['instances'] == second['instances']


def test_splits_and_seeds_differ(scenes):
    first = scenes.get_data_info(0)['img']
    for other in (DigitScenes('val', num_images=1), DigitScenes(num_images=1, seed=1)):
        assert not np.array_equal(first, other.get_data_info(0)['img'])


def test_all_classes_occur(scenes):
    labels = [i['bbox_label'] for info in scenes.data_list for i in info['instances']]
    assert set(labels) == set(range(10))
    assert scenes.metainfo['classes'] == tuple('0123456789')


def test_annotations_are_read_by_coco_s_own_tools(scenes, tmp_path):
    coco_tools = pytest.importorskip('pycocotools.coco')
    (tmp_path / 'scenes.json').write_text(json.dumps(scenes.coco()))
    coco = coco_tools.COCO(tmp_path / 'scenes.json')
    assert len(coco.getImgIds()) == 60
    for index, info in enumerate(scenes.data_list):
        annotations = coco.loadAnns(coco.getAnnIds([index + 1]))
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a['bbox'] for a in annotations)]
        assert corners == boxes_of(info).tolist()


def test_labelled_and_unlabelled_scenes_are_the_whole_and_folds_differ():
    parts = {
        fold: [DigitScenes(num_images=50, subset=s, percent=20, fold=fold) for s in SUBSETS]
        for fold in (1, 2)
    }
    ids = {
        fold: [{info['img_id'] for info in part.data_list} for part in of_fold]
        for fold, of_fold in parts.items()
    }
    for labelled, unlabelled in ids.values():
        assert len(labelled) == 10
        assert labelled | unlabelled == set(range(1, 51)) and not labelled & unlabelled
    assert ids[1][0] != ids[2][0]
    assert all(info['instances'] == [] for info in parts[1][1].data_list)


SUBSETS = ('labelled', 'unlabelled')


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(split='test'), "split must be one of 'train', 'val'"),
        (
            dict(subset='labeled'),
            "subset must be one of .*, got 'labeled'. Did you mean 'labelled'",
        ),
        (dict(size=20), 'size must be an integer >= 48, got 20'),
        (dict(percent=0), r'percent must be a number in \(0, 100\), got 0'),
        (dict(fold=0), 'fold must be an integer >= 1, got 0'),
        (dict(contrast=2), 'contrast must be a number .*, got 2'),
    ],
)
def test_wrong_option_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        DigitScenes(num_images=4, **options)
