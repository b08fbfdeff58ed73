# SPDX-License-Identifier: Apache-2.0
"""The hook that logs how good the pseudo-labels are."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from se_mm.models.semi_supervised import SemiSupervisedClassifier
from se_mm.smoothing.options import OptionError, check_count
from se_mm.teachers import plain_model


@HOOKS.register_module()
class PseudoLabelHook(Hook):
    """Logs the quality of a semi-supervised classifier's pseudo-labels since the last log.

    The scalars are ``mask_rate``, the fraction of accepted pseudo-labels, and, if the truth is
    known, ``pseudo_label_acc`` and ``accepted_acc``, the accuracy in % of all and of accepted ones.
    Fractions of the classes among accepted ones are ``rarest_class`` and ``commonest_class`` in the
    terminal, and ``pseudo_labels/NAME`` in the visualizer's backends.

    Args:
        interval: Iterations between two logs, equal to the logger's.
    """

    priority = 'NORMAL'  # Before the logger.

    def __init__(self, interval: int = 50) -> None:
        self.interval = check_count('interval', interval, 1)

    def before_run(self, runner: Runner) -> None:
        """Check the model."""
        model = plain_model(runner.model)
        if not isinstance(model, SemiSupervisedClassifier):
            raise OptionError(
                f'PseudoLabelHook needs a SemiSupervisedClassifier, such as FixMatch, got '
                f'{type(model).__name__}'
            )
        self._quality = model.quality

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Log every ``interval`` iterations."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        scalars, shares = self._quality.read()
        if shares:
            scalars |= {'rarest_class': min(shares), 'commonest_class': max(shares)}
            classes = runner.train_dataloader.dataset.metainfo['classes']
            runner.visualizer.add_scalars(
                {f'pseudo_labels/{name}': share for name, share in zip(classes, shares)},
                step=runner.iter + 1,
            )
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
