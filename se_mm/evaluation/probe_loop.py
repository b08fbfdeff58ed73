# SPDX-License-Identifier: Apache-2.0
"""Validation and test loop that evaluates frozen features of teacher and student with probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from copy import deepcopy
from typing import Any, cast

import torch
from mmengine.dist import all_gather
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import LOOPS, TASK_UTILS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from se_mm.datasets.class_checks import check_metrics, check_same_classes
from se_mm.evaluation.evaluation_loop import NETWORKS, EvaluationLoop, checked_classes
from se_mm.evaluation.features import frozen, pooled
from se_mm.evaluation.probes import Probe
from se_mm.rng import rng_untouched
from se_mm.smoothing.options import OptionError
from se_mm.teachers import bound_teacher
from se_mm.teachers.base import submodule


@LOOPS.register_module()
class ProbeLoop(EvaluationLoop):
    """Fit probes to frozen features of a labelled bank and evaluate them on the dataloader.

    Use it in any config as ``val_cfg``, as ``test_cfg`` or both. The metrics are
    ``teacher_knn/top1``, ``student_knn/top5`` and so on, with the prefix ``val/`` in the log files.

    The bank and the evaluation images are read once, through the model's own data preprocessor.
    Training is not affected: gradients are off, and the modes of all modules and the global RNGs
    are restored. With several ranks, each reads its part of the images and holds the features of
    the whole bank on the CPU, N x D x 4 bytes for each of teacher and student (1 GB for a tenth of
    ImageNet and ResNet-50), so use only a part of a large training set.

    Args:
        dataloader: The labelled evaluation images; ``val_dataloader`` or ``test_dataloader``.
        evaluator: Metrics that take ``pred_score`` and ``gt_label``, such as mmpretrain's Accuracy.
        bank: Config of a dataloader of labelled images to fit the probes to, usually the training
            split with the evaluation pipeline, without augmentation. Its sampler is always a
            ``DefaultSampler`` without shuffling.
        probes: Configs of probes, see :mod:`se_mm.evaluation.probes`.
        on: ``'teacher'``, ``'student'`` or a list of both.
        layer: Dotted name of the student's module that computes the features; the teacher's
            counterpart of it is used for the teacher.

    Raises:
        OptionError: If an option is invalid, or before the first iteration if it does not fit the
            model or the data.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        bank: dict,
        probes: Sequence[dict] = (dict(type='KNNProbe'), dict(type='LinearProbe')),
        on: str | Sequence[str] = NETWORKS,
        layer: str = 'backbone',
    ) -> None:
        super().__init__(runner, dataloader, on)
        self.evaluator = self._built(evaluator)
        bank = {**bank, 'sampler': dict(type='DefaultSampler', shuffle=False)}
        loader = runner.build_dataloader(bank, seed=runner.seed)
        self.bank: DataLoader = self._checked('bank', loader, bank)
        self.probes: list[Probe] = [TASK_UTILS.build(probe) for probe in probes]
        self.layer = layer
        # Hooks that keep a teacher beside the model create it in before_run, after the loops exist.
        runner.register_hook(_CheckHook(self), priority='VERY_LOW')

    def _metrics(self) -> dict[str, float]:
        modules = self._modules()
        metrics: dict[str, float] = {}
        with rng_untouched(), frozen(modules.values()):
            bank, images = self._read_bank(modules), self._read_images(modules)
            for who in self.on:
                for probe in self.probes:
                    fitted = deepcopy(probe)  # Dropped afterwards, with the features it may keep.
                    fitted.fit(bank[who], bank['labels'])
                    scores = fitted.scores(images[who])
                    self._measure(f'{who}_{probe.name}', scores, images['labels'], metrics)
        return metrics

    def _read_bank(self, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Return features and labels of the whole bank on every rank, in the sampler's order."""
        size = len(cast(Sized, self.bank.dataset))
        self.runner.logger.info(f'ProbeLoop: reading {size} images of the bank')
        bank = _joined([_gathered(self._features(modules, batch)) for batch in self.bank])
        # The sampler repeats the first images so that all ranks have the same number.
        return {name: rows[:size] for name, rows in bank.items()}

    def _read_images(self, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Return features and labels of this rank's part of the evaluation images."""
        parts = []

        def read(batch: dict) -> Any:
            features = self._features(modules, batch)
            parts.append({name: rows.cpu() for name, rows in features.items()})
            return batch['data_samples']

        self._read(read)
        return _joined(parts)

    def _features(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Return the features of a batch by network, and its ``labels``."""
        inputs, samples = batch['inputs'], batch['data_samples']
        if not isinstance(inputs, Tensor):
            # mmpretrain's SelfSupDataPreprocessor would interpret a list of images as views.
            inputs = torch.stack(list(inputs))
        data = {'inputs': inputs, 'data_samples': samples}
        inputs = self._model.data_preprocessor(data, False)['inputs']
        features = {who: pooled(module, inputs) for who, module in modules.items()}
        labels = torch.cat([sample.gt_label.reshape(1).cpu().long() for sample in samples])
        return {**features, 'labels': labels}

    def _measure(
        self, name: str, scores: Tensor, labels: Tensor, metrics: dict[str, float]
    ) -> None:
        """Add the evaluator's results for one probe on one network to ``metrics``."""
        pairs = zip(scores, labels.unsqueeze(1), strict=True)
        self.evaluator.process([dict(pred_score=score, gt_label=label) for score, label in pairs])
        size = len(cast(Sized, self.dataloader.dataset))
        for key, value in self.evaluator.evaluate(size).items():
            # 'accuracy/top1' becomes 'top1', unless another metric has a 'top1' too.
            short = f'{name}/{key.split("/", 1)[-1]}'
            metrics[f'{name}/{key}' if short in metrics else short] = value

    def _modules(self) -> dict[str, nn.Module]:
        """Return the probed modules, looked up each time: a hook may have swapped the teacher."""
        teacher = bound_teacher(self.runner)
        if teacher is not None:
            return {who: teacher.find(who, self.layer) for who in self.on}
        if 'teacher' in self.on:
            raise OptionError(
                f"on must be ['student'] for {type(self._model).__name__}, which has no teacher, "
                f'got {self.on!r}'
            )
        return {'student': submodule('layer', self._model, self.layer)}

    def check(self) -> None:
        """Raise OptionError for what would fail or mislead during the run."""
        names = [probe.name for probe in self.probes]
        if not names or len(set(names)) < len(names):
            raise OptionError(f'probes must be one or more distinct names, got {names!r}')
        for hook in self.runner.hooks:
            if isinstance(hook, EMAHook):
                raise OptionError(
                    f'custom_hooks must not have {type(hook).__name__} with ProbeLoop, which would '
                    f'take the average for the student; use '
                    f"dict(type='SETMAHook', keep_prob=0), the same average as a teacher"
                )
        for probe in self.probes:
            probe.check(len(cast(Sized, self.bank.dataset)))
        self._check_classes()
        modules = self._modules()
        with rng_untouched(), frozen(modules.values()):
            loaders = {f'{self._stage}_dataloader': self.dataloader, 'bank': self.bank}
            for key, loader in loaders.items():
                sample = loader.dataset[0]
                _check_sample(key, sample)
            try:
                self._features(modules, {name: [value] for name, value in sample.items()})
            except Exception as error:  # The model is the user's and can raise anything.
                reason = str(error).strip().split('\n')[0] or type(error).__name__
                raise OptionError(
                    f'layer={self.layer!r} cannot be probed on the images of the bank: {reason}'
                ) from error

    def _check_classes(self) -> None:
        """Check that bank and evaluation images have the same classes, if they are known."""
        key = f'{self._stage}_dataloader.dataset'
        sets = {'bank.dataset': self.bank.dataset, key: self.dataloader.dataset}
        if all((getattr(data, 'metainfo', None) or {}).get('classes') for data in sets.values()):
            classes, others = (checked_classes(name, data) for name, data in sets.items())
            check_same_classes('bank.dataset', classes, key, others)
            check_metrics(f'{self._stage}_evaluator', self.evaluator.metrics, len(classes))


class _CheckHook(Hook):
    """Checks a loop when the run starts, after the other hooks are set up."""

    def __init__(self, loop: ProbeLoop) -> None:
        self.loop = loop

    def before_run(self, runner: Runner) -> None:
        self.loop.check()


def _check_sample(key: str, sample: Any) -> None:
    """Reject a sample that is not one labelled image."""
    if not isinstance(sample, Mapping) or not {'inputs', 'data_samples'} <= set(sample):
        raise OptionError(
            f"{key}.dataset must give 'inputs' and 'data_samples'; end its pipeline with PackInputs"
        )
    if not isinstance(sample['inputs'], Tensor):
        raise OptionError(
            f'{key}.dataset must give one image without augmentation, got '
            f'{len(sample["inputs"])} views of it'
        )
    label = getattr(sample['data_samples'], 'gt_label', None)
    if label is None or label.numel() != 1:
        raise OptionError(f'{key}.dataset must give one gt_label for each image')


def _gathered(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the rows of all ranks, on the CPU, in the order of DefaultSampler."""
    ranks = {name: [rows.cpu() for rows in all_gather(part)] for name, part in batch.items()}
    return {name: torch.stack(parts, dim=1).flatten(0, 1) for name, parts in ranks.items()}


def _joined(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
