# SPDX-License-Identifier: Apache-2.0
"""Base of the loops that serve both as ``val_cfg`` and as ``test_cfg``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch.utils.data import DataLoader, Dataset

from se_mm.datasets.class_checks import check_labels, classes_of, labels_of_dataset
from se_mm.datasets.image_files import keep_readable
from se_mm.smoothing.options import OptionError, check_choice
from se_mm.teachers import plain_model

NETWORKS = ('teacher', 'student')
_LOCAL = 'torch.utils.data.sampler'
"""Module of PyTorch's samplers that give all images to every process."""


class EvaluationLoop(BaseLoop):
    """A loop that evaluates teacher and student on every readable image exactly once."""

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, on: str | Sequence[str]
    ) -> None:
        stages = {id(runner._test_dataloader): 'test', id(runner._val_dataloader): 'val'}
        self._key = f'{stages.get(id(dataloader), "val")}_dataloader'
        super().__init__(runner, dataloader)
        self.dataloader: DataLoader = self._checked(self._key, self.dataloader, dataloader)
        self.on = [on] if isinstance(on, str) else list(on)
        for who in self.on:
            check_choice('on', who, NETWORKS)
        if not self.on or len(set(self.on)) < len(self.on):
            raise OptionError(f'on must be one or both of {", ".join(NETWORKS)}, got {on!r}')

    def run(self) -> dict[str, float]:
        """Evaluate, and return the metrics by name."""
        self.runner.call_hook(f'before_{self._stage}')
        self.runner.call_hook(f'before_{self._stage}_epoch')
        metrics = self._metrics()
        self.runner.call_hook(f'after_{self._stage}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{self._stage}')
        return metrics

    @abstractmethod
    def _metrics(self) -> dict[str, float]:
        """Compute the metrics of all networks."""

    def _read(self, evaluate: Callable[[dict], Any]) -> None:
        """Call ``evaluate`` for each batch, and the hooks before and after it."""
        for index, batch in enumerate(self.dataloader):
            where = dict(batch_idx=index, data_batch=batch)
            self.runner.call_hook(f'before_{self._stage}_iter', **where)
            outputs = evaluate(batch)
            self.runner.call_hook(f'after_{self._stage}_iter', **where, outputs=outputs)

    def _checked(self, key: str, loader: DataLoader, config: Any) -> DataLoader:
        """Return a loader, built from ``config``, without unreadable images."""
        _check_sampler(key, loader)
        readable = keep_readable(f'{key}.dataset', loader.dataset)
        if readable is loader.dataset:
            return loader
        if not isinstance(config, dict):
            raise OptionError(f"{key} must be a config where its data set has unreadable='skip'")
        return self.runner.build_dataloader({**config, 'dataset': readable}, seed=self.runner.seed)

    def _built(self, evaluator: Evaluator | dict | list) -> Evaluator:
        """Return an evaluator that knows the evaluation images."""
        if not isinstance(evaluator, Evaluator):
            evaluator = self.runner.build_evaluator(evaluator)
        evaluator.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)
        return evaluator

    @property
    def _stage(self) -> str:
        # Runner does not tell a loop which of the two it is in any other way.
        return 'test' if self.runner._test_loop is self else 'val'

    @property
    def _model(self) -> BaseModel:
        return plain_model(self.runner.model)


def checked_classes(key: str, dataset: Dataset) -> tuple[str, ...]:
    """Return the classes of a data set, after checking that its labels are among them."""
    classes = classes_of(key, dataset)
    if hasattr(dataset, 'get_gt_labels'):
        check_labels(key, labels_of_dataset(key, dataset), len(classes))
    return classes


def _check_sampler(key: str, loader: DataLoader) -> None:
    """Reject a loader that repeats images, never ends or leaves some out."""
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    ranks = get_world_size()
    use = "use dict(type='DefaultSampler', shuffle=False)"
    if isinstance(sampler, InfiniteSampler):
        raise OptionError(f'{key}.sampler must end after all images, got InfiniteSampler; {use}')
    if ranks > 1 and type(sampler).__module__ == _LOCAL:
        raise OptionError(
            f'{key}.sampler must divide the images among {ranks} processes, got '
            f'{type(sampler).__name__}; {use}'
        )
    if getattr(loader, 'drop_last', False):
        raise OptionError(f'{key}.drop_last must be False, or the last images are not evaluated')
