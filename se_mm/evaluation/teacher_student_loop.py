# SPDX-License-Identifier: Apache-2.0
"""Validation and test loop for the teacher, the student, or both."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from copy import deepcopy
from typing import Any, cast

import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import LOOPS
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from torch import nn
from torch.utils.data import DataLoader

from se_mm.datasets.class_checks import check_metrics, check_outputs, check_same_classes
from se_mm.evaluation.evaluation_loop import NETWORKS, EvaluationLoop, checked_classes
from se_mm.smoothing.options import OptionError


@LOOPS.register_module()
class TeacherStudentLoop(EvaluationLoop):
    """Evaluate the classifiers ``teacher`` and ``student`` of a model, reading the images once.

    Names of metrics begin with the network, such as ``teacher/accuracy/top1``, also in
    ``save_best='teacher/accuracy/top1'``. Use it as ``val_cfg`` or as ``test_cfg``.

    Args:
        dataloader: The labelled evaluation images.
        evaluator: Metrics, as in other evaluation loops.
        on: ``'teacher'``, ``'student'`` or a list of both.
        fp16: Whether to evaluate in automatic mixed precision.

    Raises:
        OptionError: If ``on`` is invalid, the model lacks a network, or the images cannot be read
            or have other classes than the training images.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        on: str | Sequence[str] = NETWORKS,
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, on)
        classes = self._check_classes()
        self.evaluators = {who: self._built(deepcopy(evaluator)) for who in self.on}
        for who in self.on:
            network = getattr(self._model, who, None)
            if not isinstance(network, nn.Module):
                raise OptionError(
                    f'on must name networks of {type(self._model).__name__}, got {who!r}, which '
                    f'it does not have'
                )
            outputs = getattr(getattr(network, 'head', None), 'num_classes', None)
            key = 'model.classifier.head.num_classes'
            check_outputs(key, outputs, classes, f'{self._key}.dataset')
        metrics = self.evaluator.metrics
        check_metrics(self._key.replace('dataloader', 'evaluator'), metrics, len(classes))
        self.fp16 = fp16

    @property
    def evaluator(self) -> Evaluator:
        """The first network's evaluator, to which tools add metrics such as DumpResults."""
        return self.evaluators[self.on[0]]

    def _metrics(self) -> dict[str, float]:
        self.runner.logger.info(f'evaluating {" and ".join(self.on)}')
        self._model.eval()
        self._read(self._evaluate)
        size = len(cast(Sized, self.dataloader.dataset))
        return {
            f'{who}/{name}': value
            for who, evaluator in self.evaluators.items()
            for name, value in evaluator.evaluate(size).items()
        }

    @torch.no_grad()
    def _evaluate(self, batch: dict) -> Any:
        """Predict and evaluate one batch; return the last network's predictions."""
        data = self._model.data_preprocessor(batch, False)
        for who, evaluator in self.evaluators.items():
            # Predictions are written into the samples.
            samples = [sample.clone() for sample in data['data_samples']]
            with autocast(enabled=self.fp16):
                outputs = getattr(self._model, who)(data['inputs'], samples, mode='predict')
            evaluator.process(data_samples=outputs, data_batch=batch)
        return outputs

    def _check_classes(self) -> tuple[str, ...]:
        """Check that the classes are those of the training images, in the same order."""
        key = f'{self._key}.dataset'
        classes = checked_classes(key, self.dataloader.dataset)
        training = getattr(self.runner._train_loop, 'dataloader', None)  # A dict in a test run.
        trained = getattr(getattr(training, 'dataset', None), 'metainfo', {}).get('classes')
        if trained:
            check_same_classes(key, classes, 'train_dataloader.dataset', trained)
        return classes
