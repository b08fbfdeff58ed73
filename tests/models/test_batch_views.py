# SPDX-License-Identifier: Apache-2.0
"""Views that are made by batches are those of torchvision, and train what the loader's do."""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from torchvision.transforms import v2

from se_mm.models.batch_views import BatchViews
from se_mm.smoothing import OptionError

FLIP = dict(type='RandomHorizontalFlip')
CROP = dict(type='RandomCrop', size=8, padding=2, padding_mode='reflect')
PADDED = v2.RandomCrop(8, padding=2, padding_mode='reflect')


def images(count=24):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)


def test_a_group_has_the_random_numbers_that_torchvision_draws_for_it():
    make = BatchViews([[CROP]], groups=3)
    torch.manual_seed(5)
    (found,) = make(images())
    torch.manual_seed(5)
    expected = torch.cat([PADDED(group) for group in images().chunk(3)])
    assert torch.equal(found, expected)


def test_views_have_the_images_order_shape_and_dtype_and_differ():
    make = BatchViews([[], [FLIP, CROP, dict(type='RandAugment')]], groups=5)
    same, changed = make(images())
    assert torch.equal(same, images())
    assert changed.shape == same.shape and changed.dtype == torch.uint8
    assert not torch.equal(changed, same)


def test_more_groups_than_images_are_images_by_themselves():
    make = BatchViews([[FLIP]], groups=1000)
    (found,) = make(images(400))
    flipped = (found == images(400).flip(-1)).flatten(1).all(1)
    assert 140 < int(flipped.sum()) < 260
    assert all(torch.equal(f, i) or torch.equal(f, i.flip(-1)) for f, i in zip(found, images(400)))


def test_transforms_of_transforms_are_configs_too():
    choice = dict(type='RandomChoice', transforms=[dict(type='RandomInvert', p=1.0)])
    (found,) = BatchViews([[choice]])(images())
    assert torch.equal(found, 255 - images())


@pytest.mark.parametrize(
    'views, said',
    [
        ([], 'views must have a list of transforms'),
        ([dict(type='Resize')], 'a view must be a list of configs'),
    ],
)
def test_bad_views_are_refused_in_one_line(views, said):
    with pytest.raises(OptionError) as error:
        BatchViews(views)
    assert said in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'transform, said',
    [
        (dict(type='Nonsense'), "torchvision.transforms.v2' has no attribute 'Nonsense'"),
        (dict(type='RandomCrop'), "RandomCrop.* missing .* 'size'"),
    ],
)
def test_transforms_are_torchvisions_to_refuse(transform, said):
    with pytest.raises((AttributeError, TypeError), match=said):
        BatchViews([[transform]])


def test_groups_are_counted_from_one():
    with pytest.raises(OptionError, match='groups must be an integer >= 1, got 0'):
        BatchViews([[]], groups=0)


def test_labelled_images_get_the_first_view_and_unlabelled_ones_all():
    options = dict(type='SemiSupervisedDataPreprocessor', mean=[0] * 3, std=[1] * 3, groups=1)
    invert = dict(type='RandomInvert', p=1.0)
    made = MODELS.build(dict(**options, views=[[invert], [invert, invert]]))
    batch = {
        'inputs': {'labelled': images(4), 'views': [images(6)]},
        'data_samples': {'labels': torch.zeros(4), 'truth': torch.zeros(6)},
    }
    inputs = made(batch, training=True)['inputs']
    assert torch.equal(inputs['labelled'], 255 - images(4).float())
    assert torch.equal(inputs['views'][0], 255 - images(6).float())
    assert torch.equal(inputs['views'][1], images(6).float())
    batch['inputs']['views'] *= 2
    with pytest.raises(OptionError, match='must give one view of each image'):
        made(batch, training=True)


def test_self_supervised_views_are_made_in_training_alone():
    pytest.importorskip('mmpretrain')
    views = [[dict(type='RandomInvert', p=1.0)], []]
    options = dict(type='BatchViewsPreprocessor', mean=[0] * 3, std=[1] * 3)
    made = MODELS.build(dict(**options, views=views))
    batch = {'inputs': images(4), 'data_samples': None}
    first, second = made(copy.copy(batch), training=True)['inputs']
    assert torch.equal(first, 255 - images(4).float())
    assert torch.equal(second, images(4).float())
    assert torch.equal(made(batch)['inputs'], images(4).float())
