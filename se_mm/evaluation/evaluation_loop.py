# SPDX-License-Identifier: Apache-2.0
"""Base of the loops that serve both as ``val_cfg`` and as ``test_cfg``."""

from __future__ import annotations

from typing import Any

import torch.utils.data as torch_data
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch.utils.data import DataLoader

from se_mm.datasets.image_files import keep_readable
from se_mm.smoothing.options import OptionError

WHOLE = (
    torch_data.SequentialSampler,
    torch_data.RandomSampler,
    torch_data.SubsetRandomSampler,
    torch_data.WeightedRandomSampler,
)
"""PyTorch's samplers that give all images to every process."""


class EvaluationLoop(BaseLoop):
    """A validation or test loop that evaluates every readable image exactly once.

    Args:
        runner: The runner.
        dataloader: The evaluation images.

    Raises:
        OptionError: If an image file cannot be read, or an image would not be evaluated exactly
            once.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict) -> None:
        stages = {id(runner._test_dataloader): 'test', id(runner._val_dataloader): 'val'}
        self._key = f'{stages.get(id(dataloader), "val")}_dataloader'
        super().__init__(runner, dataloader)
        self.dataloader: DataLoader = self._checked(self._key, self.dataloader, dataloader)

    def _checked(self, key: str, loader: DataLoader, config: Any) -> DataLoader:
        """Return the loader without unreadable images, after checking its sampler.

        Args:
            key: The config key, for messages.
            loader: The loader.
            config: The config or dataloader that it was built from.
        """
        _check_sampler(key, loader)
        readable = keep_readable(f'{key}.dataset', loader.dataset)
        if readable is loader.dataset:
            return loader
        if not isinstance(config, dict):
            raise OptionError(f"{key} must be a config where its data set has unreadable='skip'")
        return self.runner.build_dataloader({**config, 'dataset': readable}, seed=self.runner.seed)

    @property
    def _stage(self) -> str:
        # Runner does not tell a loop which of the two it is in any other way.
        return 'test' if self.runner._test_loop is self else 'val'

    @property
    def _model(self) -> BaseModel:
        model = self.runner.model
        return model.module if is_model_wrapper(model) else model


def _check_sampler(key: str, loader: DataLoader) -> None:
    """Reject a loader that repeats images, never ends or leaves some out."""
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    ranks = get_world_size()
    use = "use dict(type='DefaultSampler', shuffle=False)"
    if isinstance(sampler, InfiniteSampler):
        raise OptionError(f'{key}.sampler must end after all images, got InfiniteSampler; {use}')
    if ranks > 1 and isinstance(sampler, WHOLE):
        raise OptionError(
            f'{key}.sampler must divide the images among {ranks} processes, got '
            f'{type(sampler).__name__}; {use}'
        )
    if getattr(loader, 'drop_last', False):
        raise OptionError(f'{key}.drop_last must be False, or the last images are not evaluated')
