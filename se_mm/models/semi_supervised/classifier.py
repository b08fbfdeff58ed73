# SPDX-License-Identifier: Apache-2.0
"""The model shared by all semi-supervised methods."""

from __future__ import annotations

import inspect
import logging
from copy import deepcopy
from math import inf
from typing import Any, Optional

import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from se_mm.models.semi_supervised.data_preprocessor import preprocessor_config
from se_mm.models.semi_supervised.pseudo_labels import PseudoLabelQuality
from se_mm.smoothing.options import OptionError, check_choice, check_keys, check_number

NETWORKS = ('teacher', 'student')
OTHER_HEADS = {
    'MultiLabelClsHead': 'several labels for an image',
    'MultiTaskHead': 'several tasks',
    'ConformerHead': 'two scores for each class',
}
"""Heads whose outputs are not the logits of a single label, and what they have instead."""


@MODELS.register_module()
class SemiSupervisedClassifier(BaseModel):
    """A student that learns from labelled and unlabelled images, and a teacher that follows it.

    The loss is the classifier's own loss on the labelled images plus a loss on the unlabelled ones:
    the labeller predicts the first view of an image, and the student learns this prediction on the
    last view. All images that the student sees pass through it at once, as one batch for batch
    norm. The teacher has no gradients and is in evaluation mode, except for its batch norm if
    ``label_statistics='batch'``; a hook updates it, ``SETMAHook`` or ``SpatialEnsembleHook``.

    Args:
        classifier: Config of any image classifier of mmpretrain.
        labeller: The network that makes pseudo-labels: ``'teacher'`` or ``'student'``. None: train
            on the labelled images only.
        label_statistics: The batch-norm statistics with which the teacher labels: ``'running'``,
            those that it holds, or ``'batch'``, those of the images that it labels, which its
            running ones then follow; the hook's ``buffers='skip'`` keeps them its own.
        accept: Config of an :class:`~se_mm.models.semi_supervised.Acceptance`, which selects
            pseudo-labels.
        target: Config of the kind of pseudo-label: ``HardTarget``, ``SharpenedTarget`` or
            ``SoftTarget``.
        consistency: The loss between target and student: ``'cross_entropy'``, or ``'mse'`` of the
            probabilities. Both are means over all unlabelled images, accepted or not.
        align: Config of a :class:`~se_mm.models.semi_supervised.DistributionAlignment`, or None.
        unlabelled_weight: Weight of the loss on unlabelled images, at least 0.
        ramp_up: Share of the run in [0, 1] during which this weight rises linearly from 0.
        predict_on: The network that predicts outside training: ``'teacher'`` or ``'student'``.
        data_preprocessor: Config of the data preprocessor; its type can be left out. None: that of
            ``classifier``.
    """

    def __init__(
        self,
        classifier: dict,
        labeller: Optional[str] = 'teacher',
        label_statistics: str = 'running',
        accept: Optional[dict] = None,
        target: Optional[dict] = None,
        consistency: str = 'cross_entropy',
        align: Optional[dict] = None,
        unlabelled_weight: float = 1.0,
        ramp_up: float = 0.0,
        predict_on: str = 'teacher',
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
        **unknown: Any,
    ) -> None:
        check_keys(type(self).__name__, unknown, _option_names(type(self)))
        preprocessor = preprocessor_config(data_preprocessor, classifier)
        super().__init__(preprocessor, init_cfg)
        if len(preprocessor) == 1:
            print_log(
                f'{type(self).__name__} has no data_preprocessor: images are not normalised and '
                f'have pixels from 0 to 255',
                logger='current',
                level=logging.WARNING,
            )
        if labeller is not None:
            check_choice('labeller', labeller, NETWORKS)
        self.labeller = labeller
        statistics, losses = ('running', 'batch'), ('cross_entropy', 'mse')
        self.label_statistics = check_choice('label_statistics', label_statistics, statistics)
        self.predict_on = check_choice('predict_on', predict_on, NETWORKS)
        self.consistency = check_choice('consistency', consistency, losses)
        self.unlabelled_weight = check_number('unlabelled_weight', unlabelled_weight, 0, inf)
        self.ramp_up = check_number('ramp_up', ramp_up, 0, 1)
        self.student = MODELS.build(classifier)
        if not getattr(self.student, 'with_head', False):
            raise OptionError(
                f'classifier must be a classifier of mmpretrain with a head, got '
                f'{classifier.get("type")!r}'
            )
        _check_head(self.student.head)
        self.teacher = deepcopy(self.student).requires_grad_(False).eval()
        self.accept = MODELS.build(accept or dict(type='ConfidenceThreshold'))
        self.target = MODELS.build(target or dict(type='HardTarget'))
        self.align = MODELS.build(align) if align else None
        self.quality = PseudoLabelQuality()

    def init_weights(self) -> None:
        """Initialise the student, and copy it to the teacher."""
        super().init_weights()
        self.teacher.load_state_dict(self.student.state_dict())

    def train(self, mode: bool = True) -> SemiSupervisedClassifier:
        """Set the mode, for the teacher only that of batch norm if it labels with batches."""
        super().train(mode)
        self.teacher.eval()
        if self.label_statistics == 'batch':
            for module in self.teacher.modules():
                if isinstance(module, _BatchNorm):
                    module.train(mode)
        return self

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Compute losses in mode ``'loss'``, else call the network named by ``predict_on``.

        Args:
            inputs: In mode ``'loss'``, ``dict(labelled=(B, 3, H, W), views=[(U, 3, H, W), ...])``;
                else images (N, 3, H, W).
            data_samples: In mode ``'loss'``, ``dict(labels=(B,), truth=(U,))``, int64, with
                negative values for unknown truth; else one data sample per image, or None.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return getattr(self, self.predict_on)(inputs, data_samples, mode=mode)

    def loss(self, inputs: dict, data_samples: dict) -> dict[str, Tensor]:
        """Return the losses and the other outputs of the head's loss; see :meth:`forward`."""
        labels, views = data_samples['labels'], inputs['views']
        if self.labeller is None:
            feats = self.student.extract_feat(inputs['labelled'])
            return self._labelled_losses(feats, labels)
        to_label, to_learn = views[0], views[-1]
        if self.labeller == 'teacher':
            with torch.no_grad():
                predicted = self.teacher(to_label, mode='tensor')
            seen = [inputs['labelled'], to_learn]
        else:
            # Pseudo-labels come from the same pass; a single view serves as both.
            seen = [inputs['labelled'], *([to_label] if len(views) > 1 else []), to_learn]
        feats = self.student.extract_feat(torch.cat(seen))
        logits = self.student.head(_rows(feats, len(labels), None))
        if self.labeller == 'student':
            predicted = logits[: len(to_label)].detach()
        learnt = logits[-len(to_learn) :]
        losses = self._labelled_losses(_rows(feats, 0, len(labels)), labels)
        loss = self._unlabelled_loss(learnt, predicted, labels, data_samples['truth'])
        losses['loss_unlabelled'] = self._weight() * loss
        return losses

    def _labelled_losses(self, feats: Any, labels: Tensor) -> dict[str, Tensor]:
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(label.reshape(1)) for label in labels]
        losses = self.student.head.loss(feats, samples)
        names = {name: f'labelled_{name}' for name in losses} | {'loss': 'loss_labelled'}
        return {names[name]: value for name, value in losses.items()}

    def _unlabelled_loss(
        self, logits: Tensor, predicted: Tensor, labels: Tensor, truth: Tensor
    ) -> Tensor:
        # Always in float32: low precision is too coarse near a threshold such as 0.95.
        probabilities = predicted.float().softmax(dim=1)
        if self.align is not None:
            probabilities = self.align(probabilities, labels)
        weights = self.accept(probabilities)
        targets = self.target(probabilities)
        self.quality.update(probabilities, weights, truth)
        logits = logits.float()
        if self.consistency == 'mse':
            losses = (logits.softmax(dim=1) - targets).square().mean(dim=1)
        else:
            losses = F.cross_entropy(logits, targets, reduction='none')
        return (weights * losses).mean()

    def _weight(self) -> float:
        """Return the weight of the loss on unlabelled images at this iteration."""
        if not self.ramp_up:
            return self.unlabelled_weight
        hub = MessageHub.get_current_instance()
        risen = hub.get_info('iter', 0) / (self.ramp_up * hub.get_info('max_iters', 1))
        return self.unlabelled_weight * min(1.0, risen)


def _check_head(head: Any) -> None:
    """Reject a head whose outputs are not the logits of a softmax."""
    for parent in type(head).__mro__:
        if parent.__name__ in OTHER_HEADS:
            raise OptionError(
                f'classifier.head must give one logit for each class, got {type(head).__name__}, '
                f'which has {OTHER_HEADS[parent.__name__]}'
            )
    if getattr(getattr(head, 'loss_module', None), 'use_sigmoid', False):
        raise OptionError(
            'classifier.head.loss.use_sigmoid must be False, since a pseudo-label is a single class'
        )


def _rows(feats: Any, start: int, stop: Optional[int]) -> Any:
    """Slice the features of some images; a backbone or neck may return nested tuples."""
    return tree_map(lambda part: part[start:stop], feats)


def _option_names(method: type) -> list[str]:
    """Return the options of a method: those of its constructor and of its base classes."""
    classes = [cls for cls in method.__mro__ if issubclass(cls, SemiSupervisedClassifier)]
    names = [name for cls in classes for name in inspect.signature(cls).parameters]
    return [name for name in dict.fromkeys(names) if name not in ('options', 'unknown')]
