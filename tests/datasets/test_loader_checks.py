# SPDX-License-Identifier: Apache-2.0
"""A training dataloader without batches or without views is refused in one line."""

import random

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.model import BaseDataPreprocessor
from torch.utils.data import DataLoader

from se_mm.datasets import loader_checks
from se_mm.datasets.loader_checks import check_train_loader
from se_mm.models.batch_views import BatchViewsPreprocessor
from se_mm.smoothing import OptionError


class Images(torch.utils.data.Dataset):
    """Images of which each is some views, or one tensor."""

    def __init__(self, views):
        self.views = views

    def __len__(self):
        return 6

    def __getitem__(self, index):
        view = torch.rand(3, 4, 4) + random.random()
        inputs = [view] * self.views if self.views else view
        return {'inputs': inputs, 'data_samples': 0}


class BYOL:
    """Stands for mmpretrain's."""

    data_preprocessor = BaseDataPreprocessor()


class OwnBYOL(BYOL):
    """A user's own kind of it."""


def loader(views=2, batch_size=4, drop_last=True, sampler=DefaultSampler, **options):
    images = Images(views)
    return DataLoader(
        images, batch_size, sampler=sampler(images, seed=0), drop_last=drop_last, **options
    )


@pytest.mark.parametrize('model', [BYOL(), OwnBYOL()], ids=lambda model: type(model).__name__)
def test_views_are_needed_where_the_model_compares_them(model):
    check_train_loader(loader(2), model)
    for views in (0, 1):
        with pytest.raises(
            OptionError, match=r'two views of an image for (Own)?BYOL; put .*MultiV'
        ):
            check_train_loader(loader(views), model)
        check_train_loader(loader(views), object())


def test_preprocessor_may_make_the_views():
    pytest.importorskip('mmpretrain')
    model = BYOL()
    options = dict(views=[[], []], mean=[0] * 3, std=[1] * 3)
    model.data_preprocessor = BatchViewsPreprocessor(**options)
    check_train_loader(loader(0), model)
    model.data_preprocessor = BatchViewsPreprocessor(**{**options, 'views': [[]]})
    with pytest.raises(OptionError, match='two views of an image for BYOL'):
        check_train_loader(loader(0), model)


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(OptionError, match='must give a batch, got 6 images in batches of 8; use'):
        check_train_loader(loader(batch_size=8), BYOL())
    check_train_loader(loader(batch_size=8, drop_last=False), BYOL())
    # It goes on in the next pass over the images.
    check_train_loader(loader(batch_size=8, sampler=InfiniteSampler), BYOL())


def test_number_of_processes_counts(monkeypatch):
    monkeypatch.setattr(loader_checks, 'get_world_size', lambda: 2)
    with pytest.raises(OptionError, match='got 6 images for 2 processes in batches of 8'):
        check_train_loader(loader(batch_size=8), object())


def test_random_generators_are_left_alone():
    random.seed(1), torch.manual_seed(1)
    expected = random.random(), torch.rand(()).item()
    random.seed(1), torch.manual_seed(1)
    check_train_loader(loader(), BYOL())
    assert (random.random(), torch.rand(()).item()) == expected
