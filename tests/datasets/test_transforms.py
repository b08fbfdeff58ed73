# SPDX-License-Identifier: Apache-2.0
"""The views: how often each operation is applied, how strongly, and what is at the border."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from se_mm.datasets import FixMatchRandAugment, ReflectPad
from se_mm.smoothing import OptionError

pytest.importorskip('mmpretrain')
CONFIGS = Path(__file__).parents[2] / 'configs/_base_'


def image():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.mark.parametrize('num_ops, prob', [(2, 0.5), (3, 1.0)])
def test_each_operation_is_applied_as_often_as_it_should(num_ops, prob):
    augment = FixMatchRandAugment(num_ops, prob)
    counts = np.zeros(len(augment.operations))

    def counted(index):
        def apply(results):
            counts[index] += 1
            return results

        return apply

    augment.operations = [counted(index) for index in range(len(counts))]
    np.random.seed(0)
    trials = 4000
    for _ in range(trials):
        augment({})
    # One of fourteen is to do nothing.
    expected = trials * num_ops * prob / 14
    assert len(counts) == 13
    assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_image_keeps_its_form_whatever_is_applied():
    augment = FixMatchRandAugment(3, 1.0)
    np.random.seed(0)
    results = [augment({'img': image(), 'img_shape': (32, 32)})['img'] for _ in range(300)]
    assert {(result.shape, result.dtype) for result in results} == {
        ((32, 32, 3), np.dtype('uint8'))
    }
    changed = np.mean([not np.array_equal(result, image()) for result in results])
    assert changed > 0.9


def test_without_probability_nothing_happens():
    results = FixMatchRandAugment(3, 0.0)({'img': image()})
    assert np.array_equal(results['img'], image())


def test_brightness_is_only_ever_reduced():
    augment = FixMatchRandAugment()
    (brightness,) = [op for op in augment.operations if type(op).__name__ == 'Brightness']
    np.random.seed(0)
    means = [brightness({'img': image()})['img'].mean() / image().mean() for _ in range(300)]
    assert 0.03 < min(means) < 0.1
    assert 0.9 < max(means) < 0.97


@pytest.mark.parametrize(
    'name, largest, smallest', [('randaugment_2_10', 256, 60), ('randaugment_3_5', 256, 0)]
)
def test_published_variant_ends_in_a_grey_square(name, largest, smallest):
    init_default_scope('mmpretrain')
    *_, cutout = Config.fromfile(CONFIGS / f'{name}.py').randaugment
    grey = np.array(cutout.pad_val)
    white = np.full((32, 32, 3), 255, np.uint8)
    np.random.seed(0)
    squares = []
    for _ in range(300):
        result = Compose([cutout])({'img': white.copy()})['img']
        squares.append((result == grey).all(2).sum())
        assert np.isin(result, [255, *grey.reshape(-1)]).all()
    # It may lie partly outside the image.
    assert largest * 0.8 <= max(squares) <= largest * 1.2
    assert min(squares) >= smallest - 1


def test_weak_view_is_a_window_on_the_image_and_its_mirror_images():
    init_default_scope('mmpretrain')
    padded = np.pad(image(), ((4, 4), (4, 4), (0, 0)), mode='reflect')
    windows = {
        padded[top : top + 32, left : left + 32].tobytes() for top in range(9) for left in range(9)
    }
    weak = Compose([ReflectPad(4), dict(type='RandomCrop', crop_size=32)])
    np.random.seed(0)
    views = {weak({'img': image()})['img'].tobytes() for _ in range(800)}
    assert views == windows


@pytest.mark.parametrize('name', ['fixmatch_wrn', 'fixmatch_svhn'])
def test_published_weak_view_has_no_black_border(name):
    init_default_scope('mmpretrain')
    weak = Compose(Config.fromfile(CONFIGS / f'{name}.py').weak)
    white = np.full((32, 32, 3), 255, np.uint8)
    assert all((weak({'img': white.copy()})['img'] == 255).all() for _ in range(50))


def test_border_of_nothing_is_refused():
    with pytest.raises(OptionError, match='padding must be an integer >= 1, got 0'):
        ReflectPad(0)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_ops=0), 'num_ops must be an integer >= 1, got 0'),
        (dict(prob=1.5), 'prob must be a number .*, got 1.5'),
    ],
    ids=str,
)
def test_wrong_option_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        FixMatchRandAugment(**options)
