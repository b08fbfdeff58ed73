# SPDX-License-Identifier: Apache-2.0
"""Many teachers of one student, to compare them at the cost of one training."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Optional

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor, nn

from se_mm.engine.hooks.evaluation import add_metrics, evaluate_once_more
from se_mm.engine.hooks.recalibrate import check_batches, statistics
from se_mm.engine.hooks.run_length import OptimizerSteps
from se_mm.smoothing import OptionError, SpatialEnsemble
from se_mm.smoothing.ensemble import OPTIONS
from se_mm.smoothing.options import check_count, check_keys
from se_mm.smoothing.settings import COPY, RECALIBRATE
from se_mm.smoothing.tensors import named_tensors
from se_mm.teachers import plain_model

CHECKPOINT_KEY = 'shadows'


@HOOKS.register_module()
class ShadowsHook(Hook):
    """Updates several teachers of one student, and evaluates each.

    They do not influence the student, whose training is bit-equal to one without the hook. So
    differences between the teachers are due to their options alone. After each evaluation of the
    model, the metrics of each teacher are logged as ``{name}/{metric}``. Checkpoints contain the
    teachers, and a resumed run continues them.

    Example:
        >>> custom_hooks = [
        ...     dict(
        ...         type='ShadowsHook',
        ...         shadows=dict(
        ...             tma=dict(keep_prob=0, momentum=0.01),
        ...             se=dict(keep_prob=0.99),
        ...             sts=dict(keep_prob=0.7, momentum=0.01, match_horizon=True),
        ...         ),
        ...     )
        ... ]

    Args:
        shadows: Name -> options of :class:`~se_mm.smoothing.SpatialEnsemble`; the default of
            ``seed`` is the run's. With ``buffers='recalibrate'``, batch-norm statistics are
            recomputed for each evaluation.
        recalibrate_batches: Training batches of each rank for that, at least 1.
    """

    def __init__(
        self, shadows: Mapping[str, Mapping[str, Any]], recalibrate_batches: int = 50
    ) -> None:
        if not isinstance(shadows, Mapping) or not shadows:
            raise OptionError(f'shadows must have a name and options for each, got {shadows!r}')
        for name, options in shadows.items():
            if not isinstance(name, str) or not name or '/' in name or name.startswith('_'):
                raise OptionError(f'a name in shadows must be a word without "/", got {name!r}')
            if not isinstance(options, Mapping):
                raise OptionError(f'shadows.{name} must be a dict of options, got {options!r}')
            check_keys(f'shadows.{name}', options, OPTIONS)
            # Validates the options with a layer whose initialisation uses no random numbers.
            _teacher(name, nn.BatchNorm1d(1), {**options, 'overrides': {}}, 1)
        self.shadows = {name: dict(options) for name, options in shadows.items()}
        self.batches = check_count('recalibrate_batches', recalibrate_batches, 1)
        self._recalibrated = [
            name for name, options in shadows.items() if options.get('buffers') == RECALIBRATE
        ]
        self.teachers: dict[str, SpatialEnsemble] = {}
        self._loaded: Optional[dict[str, Any]] = None
        self._steps: Optional[OptimizerSteps] = None

    def before_run(self, runner: Runner) -> None:
        """Raise OptionError if an evaluation loop cannot evaluate the teachers."""
        if self._recalibrated:
            check_batches(runner)
        for loop in (runner._val_loop, runner._test_loop):
            if isinstance(loop, BaseLoop) and not hasattr(loop, 'run_iter'):
                raise OptionError(
                    f'shadows need a loop that evaluates batch by batch, such as ValLoop, got '
                    f'{type(loop).__name__}'
                )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the teachers of a checkpoint."""
        self._loaded = checkpoint.pop(CHECKPOINT_KEY, None)

    def before_train(self, runner: Runner) -> None:
        """Create the teachers, or continue those of the checkpoint."""
        self._make(runner, runner.max_iters)
        self._steps = OptimizerSteps(runner, made=False)

    def before_test(self, runner: Runner) -> None:
        """Load the teachers of the checkpoint."""
        if self._loaded and not self.teachers:
            self._make(runner, 1)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Update all teachers, if the optimizer has made a step."""
        assert self._steps is not None
        if self._steps.due():
            student = plain_model(runner.model)
            for teacher in self.teachers.values():
                teacher.update(student)

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Validate each teacher."""
        self._evaluate(runner, 'val', metrics)

    def after_test_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Test each teacher."""
        self._evaluate(runner, 'test', metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the teachers to a checkpoint."""
        checkpoint[CHECKPOINT_KEY] = {
            name: teacher.state_dict() for name, teacher in self.teachers.items()
        }

    def _make(self, runner: Runner, updates: int) -> None:
        model = plain_model(runner.model)
        self.teachers = {}
        for name, options in self.shadows.items():
            teacher = _teacher(name, model, {'seed': runner.seed or 0, **options}, updates)
            if self._loaded and name in self._loaded:
                teacher.load_state_dict(self._loaded[name])
            elif self._loaded is not None or runner.iter:
                runner.logger.warning(
                    f'the checkpoint has no shadow {name!r}: it starts from the student.'
                )
            self.teachers[name] = teacher
        self._loaded = None

    @torch.no_grad()
    def _evaluate(self, runner: Runner, stage: str, metrics: Optional[dict[str, float]]) -> None:
        model = plain_model(runner.model)
        own = named_tensors(model)
        for name, teacher in self.teachers.items():
            if not teacher.step:  # Before the first update, it is the student.
                continue
            kept = {key: tensor.clone() for key, tensor in own.items()}
            _fill(own, named_tensors(teacher.module))
            try:
                if name in self._recalibrated:
                    seed = runner.seed or 0
                    _fill(own, statistics(runner, deepcopy(model), own, self.batches, seed))
                found = evaluate_once_more(runner, stage)
            finally:
                _fill(own, kept)
            add_metrics(runner, stage, metrics, {f'{name}/{k}': v for k, v in found.items()})


def _fill(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name in own.keys() & values.keys():
        own[name].copy_(values[name])


def _teacher(
    name: str, model: nn.Module, options: Mapping[str, Any], updates: int
) -> SpatialEnsemble:
    """Create a teacher of a model, which copies the buffers that are recalibrated later."""
    copied = {'buffers': COPY} if options.get('buffers') == RECALIBRATE else {}
    try:
        return SpatialEnsemble(model, **{**options, **copied}, total_updates=updates)
    except OptionError as error:
        raise OptionError(f'shadows.{name}: {error}') from error
