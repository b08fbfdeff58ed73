# SPDX-License-Identifier: Apache-2.0
"""The hook that first trains a semi-supervised detector on its labelled images alone."""

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
    """Trains a ``SemiBaseDetector`` of mmdet, such as SoftTeacher, on labelled images first.

    Pseudo-boxes of an untrained teacher are useless, and cost most of the time of an iteration. In
    the first iterations the student's loss is that of the labelled images. The teacher's hook
    updates the teacher as usual. Source: the burn-in stage of Liu et al., *Unbiased Teacher
    for Semi-Supervised Object Detection*, ICLR 2021, https://arxiv.org/abs/2102.09480.

    Example:
        >>> custom_hooks = [
        ...     dict(type='SETMAHook', keep_prob=0.5),
        ...     dict(type='BurnInHook', iters=2000),
        ... ]

    Args:
        iters: Number of iterations, at most those of the run; with all of them, the training is
            supervised.

    Raises:
        OptionError: Before the first iteration, if ``iters`` is out of range, or the model is no
            such detector.
    """

    def __init__(self, iters: int) -> None:
        self.iters = check_count('BurnInHook.iters', iters, 1)

    def before_train(self, runner: Runner) -> None:
        """Check model and length. Called before the first iteration."""
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
        """Select the loss of the iteration."""
        model: Any = plain_model(runner.model)
        if runner.iter < self.iters:
            # Bound to the model, so that a copy of it computes its own loss.
            vars(model)['loss'] = MethodType(_labelled_loss, model)
        elif 'loss' in vars(model):
            del model.loss
            runner.logger.info(f'BurnInHook: unlabelled images from iteration {runner.iter} on.')


def _labelled_loss(model: Any, inputs: dict[str, Tensor], data_samples: dict[str, list]) -> dict:
    loss: dict = model.loss_by_gt_instances(inputs['sup'], data_samples['sup'])
    return loss
