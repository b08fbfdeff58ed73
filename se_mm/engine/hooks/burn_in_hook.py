# SPDX-License-Identifier: Apache-2.0
"""The hook that trains a semi-supervised detector on its labelled images alone at first."""

from __future__ import annotations

from types import MethodType
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from se_mm.smoothing.options import OptionError, check_count
from se_mm.teachers import plain_model


@HOOKS.register_module()
class BurnInHook(Hook):
    """Lets a ``SemiBaseDetector`` of mmdet, such as SoftTeacher, learn from labelled images first.

    Pseudo-boxes of a teacher that has learnt nothing teach nothing, and cost most of an iteration.
    For the first iterations the student's loss is that of the labelled images; the teacher follows
    it meanwhile as its own hook says. Source: the burn-in stage of Liu et al., *Unbiased Teacher
    for Semi-Supervised Object Detection*, ICLR 2021, https://arxiv.org/abs/2102.09480.

    Example:
        >>> custom_hooks = [
        ...     dict(type='SETMAHook', keep_prob=0.5),
        ...     dict(type='BurnInHook', iters=2000),
        ... ]

    Args:
        iters: How many iterations, at most the run's length; all of them make a detector that has
            never seen an unlabelled image, to compare with.

    Raises:
        OptionError: If that is out of its range, or the model is no such detector; before the
            first iteration.
    """

    def __init__(self, iters: int) -> None:
        self.iters = check_count('BurnInHook.iters', iters, 1)

    def before_train(self, runner: Runner) -> None:
        """Check model and length. Called once the model is loaded."""
        model = plain_model(runner.model)
        if not hasattr(model, 'loss_by_gt_instances'):
            raise OptionError(
                f'BurnInHook needs a semi-supervised detector of mmdet, such as SoftTeacher, got '
                f'{type(model).__name__}'
            )
        if self.iters > runner.max_iters:
            raise OptionError(
                f'BurnInHook.iters must be <= {runner.max_iters}, the iterations of the run, got '
                f'{self.iters}'
            )

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Choose the loss of the iteration."""
        model: Any = plain_model(runner.model)
        if runner.iter < self.iters:
            # A bound method, so that a copy of the model computes its own loss.
            vars(model)['loss'] = MethodType(_labelled_loss, model)
        elif 'loss' in vars(model):
            del model.loss
            runner.logger.info(f'BurnInHook: unlabelled images from iteration {runner.iter} on.')


def _labelled_loss(model: Any, inputs: dict[str, Tensor], data_samples: dict[str, list]) -> dict:
    loss: dict = model.loss_by_gt_instances(inputs['sup'], data_samples['sup'])
    return loss
