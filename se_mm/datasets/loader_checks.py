# SPDX-License-Identifier: Apache-2.0
"""Check that a training dataloader gives batches that fit the model."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from torch import Tensor
from torch.utils.data import DataLoader

from se_mm.rng import rng_untouched
from se_mm.smoothing.options import OptionError

OF_VIEWS = ('BYOL', 'BarlowTwins', 'DenseCL', 'MoCo', 'MoCoV3', 'SimCLR', 'SimSiam', 'SwAV')
"""Models of mmpretrain that need several views of an image."""


def check_train_loader(loader: DataLoader, model: Any) -> None:
    """Reject a training dataloader without batches, or without views if the model needs them."""
    batches: Any = loader.batch_sampler
    sampler = getattr(batches, 'sampler', loader.sampler)
    endless = isinstance(sampler, InfiniteSampler)
    if not endless and hasattr(batches, '__len__') and not len(batches):
        images, ranks = len(cast(Sized, loader.dataset)), get_world_size()
        shared = f' for {ranks} processes' if ranks > 1 else ''
        raise OptionError(
            f'train_dataloader must give a batch, got {images} images{shared} in batches of '
            f'{getattr(batches, "batch_size", loader.batch_size)}; use a smaller batch_size, or '
            f'drop_last=False'
        )
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if not kinds.isdisjoint(OF_VIEWS):
        with rng_untouched():
            batch = loader.collate_fn([loader.dataset[0]])
            # It may be the preprocessor that makes the views.
            inputs = model.data_preprocessor(batch, True)['inputs']
        if isinstance(inputs, Tensor) or len(inputs) < 2:
            raise OptionError(
                f'train_dataloader.dataset.pipeline must give at least two views of an image for '
                f'{type(model).__name__}; put its transforms into '
                f"dict(type='MultiView', num_views=2, transforms=[[...]]) before PackInputs"
            )
