# SPDX-License-Identifier: Apache-2.0
"""The hooks that move a teacher: Spatial Ensemble alone, and with an average."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Optional

from mmengine.dist import get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from se_mm.engine.hooks.evaluation import swapped_back, swapped_in
from se_mm.engine.hooks.line import read_line
from se_mm.engine.hooks.recalibrate import check_recalibration, recalibrate
from se_mm.engine.hooks.record import load_teacher, save_teacher
from se_mm.engine.hooks.run_length import (
    OptimizerSteps,
    begun,
    check_begin,
    check_interval,
    updates_of,
)
from se_mm.engine.hooks.teacher_curves import TeacherCurves
from se_mm.smoothing.guards import Guard
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.picks import rank_seed
from se_mm.smoothing.settings import RECALIBRATE
from se_mm.teachers import Mover, Pair, Shadow, Teacher, find_teacher, plain_model


@HOOKS.register_module()
class SpatialEnsembleHook(Hook):
    """Move the teacher by Spatial Ensemble (SE).

    At each update every unit of the teacher is kept with probability ``keep_prob``, or replaced by
    the student's. The hook finds the teacher and changes nothing else: not the model, not the loss,
    not the names in the checkpoint. Source: Huang et al., NeurIPS 2021,
    https://arxiv.org/abs/2110.01253.

    Example:
        >>> custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.99)]

    Args:
        **options: Those of :class:`~se_mm.smoothing.Settings`, without those of an average; and
            those of the hook whose line this was: see :mod:`se_mm.engine.hooks.line`.

    Attributes:
        settings: The options, validated.
        mover: What moves the teacher, once it is found.

    Raises:
        OptionError: If an option is invalid; and before the first iteration, if it does not fit the
            model or the run.
        TeacherFault: During training, if a check of student or teacher fails.
    """

    priority = 'NORMAL'
    defaults: ClassVar[dict[str, Any]] = {'keep_prob': 0.99, 'momentum': 1.0}
    mover: Mover

    def __init__(self, **options: Any) -> None:
        self._line = read_line(type(self).__name__, self.defaults, options)
        self.settings = self._line.settings
        self._model: Optional[nn.Module] = None
        self._steps: Optional[OptimizerSteps] = None
        self._curves: Optional[TeacherCurves] = None

    @property
    def _written_by(self) -> dict[str, Any]:
        """What a checkpoint says of this hook."""
        return {'hook': type(self).__name__, 'options': self._line.settings.plain()}

    @property
    def teacher(self) -> Optional[Teacher]:
        """The teacher, once it is found."""
        return None if self._model is None else self.mover.teacher

    def bind(self, model: nn.Module) -> Mover:
        """Find the teacher of a model and pair it with its student, and change nothing.

        The model is without its wrapper, and may be on the meta device.
        """
        if self._model is model:
            return self.mover
        line = self._line
        teacher = find_teacher(model, line.settings, line.kind, line.ema)
        if line.settings.evaluate_on is not None and not isinstance(teacher, Shadow):
            raise OptionError(
                f"evaluate_on needs a copy of the model, kind='shadow': {type(model).__name__} has "
                f'its teacher {teacher.path!r} inside and decides what is evaluated'
            )
        settings = line.settings
        if settings.momentum is None:
            settings = replace(settings, momentum=teacher.momentum)
        mover = Mover(teacher, settings)
        if teacher.student is not None:
            mover.ensemble.smoother.bind(teacher.student)
        self.settings, self.mover, self._model = settings, mover, model
        return mover

    def before_run(self, runner: Runner) -> None:
        """Install the mover. The model is built and wrapped, its weights not yet there."""
        mover = self.bind(plain_model(runner.model))
        self.check_other_hooks(type(hook) for hook in runner.hooks if hook is not self)
        if isinstance(runner._train_loop, BaseLoop):
            check_begin(self.settings, runner.max_iters, runner.max_epochs)
        if self.settings.buffers == RECALIBRATE:
            check_recalibration(mover, runner)
        mover.teacher.install(mover)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the teacher's part out of a checkpoint, before the model loads the rest."""
        training = isinstance(runner._train_loop, BaseLoop)
        load_teacher(self.mover, runner, checkpoint, training, self._written_by)

    def before_train(self, runner: Runner) -> None:
        """Settle the run's seed, its length, and where it stands. The weights are there."""
        mover, settings = self.mover, self.settings
        fresh = runner.iter == 0
        continued = fresh and mover.started
        seeds = (settings.seed, mover.seed, runner.seed, 0)
        mover.seed = next(seed for seed in seeds if seed is not None)
        rank = get_rank() if settings.diff_rank_picks else 0
        updates = updates_of(runner, mover)
        check_interval(mover, updates)
        named = settings.kind or settings.teacher or self._line.kind
        said = named or settings.initial_teacher == 'student'
        if isinstance(mover.teacher, Pair) and fresh and not (continued or said):
            mover.teacher.check_start()
        mover.guard = self._guard(runner)
        following = not begun(runner, settings, student_updates=0)
        mover.start(rank_seed(mover.seed, rank), updates, fresh, following)
        mover.weight(max(1, mover.ensemble.step))  # Fails where match_horizon does not fit.
        self._steps = OptimizerSteps(runner, made=mover.teacher.updated_by_model)
        if settings.curves:
            self._curves = TeacherCurves(mover)
        self._say(runner, continued)

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """End a recalibration, and say whether an update is due where the model asks for it."""
        self.mover.put_back()
        if self.mover.teacher.updated_by_model:
            self._arm(runner, student_updates=runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, *_: Any, **__: Any) -> None:
        """Update a teacher that the model does not update itself, if an update is due."""
        mover = self.mover
        if not mover.teacher.updated_by_model:
            self._arm(runner, student_updates=runner.iter + 1)
            mover()
        last = runner.iter + 1 >= runner.max_iters
        if mover.watching and not (mover.held or mover.following):
            mover.count_opportunity(last)
        if self._curves is not None:
            self._curves.log(runner, batch_idx)
        if last and self.settings.buffers == RECALIBRATE:
            recalibrate(mover, runner)  # For the last checkpoint, which is saved after this.

    def before_val_epoch(self, runner: Runner) -> None:
        """Put a teacher beside the model into it, to be evaluated."""
        swapped_in(self.mover, runner)

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Take it out again, and validate the student too if asked to."""
        swapped_back(self.mover, runner, 'val', metrics)

    before_test_epoch = before_val_epoch

    def after_test_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Take it out again, and test the student too if asked to."""
        swapped_back(self.mover, runner, 'test', metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what the picks need besides the state dict, on rank 0, and a teacher beside it."""
        save_teacher(self.mover, runner, checkpoint, self._written_by)

    def check_other_hooks(self, others: Iterable[type]) -> None:
        """Raise OptionError if another hook of the run takes this one's place; given its class."""
        # Mean teachers are told by their method, since mmdet need not be installed. Other movers
        # are noticed by what they do.
        shadow = isinstance(self.mover.teacher, Shadow)
        for hook in others:
            replaced = issubclass(hook, EMAHook) if shadow else hasattr(hook, 'momentum_update')
            if issubclass(hook, SpatialEnsembleHook) or replaced:
                raise OptionError(
                    f'custom_hooks must have one hook that moves the teacher, got '
                    f'{type(self).__name__} and {hook.__name__}: remove the line '
                    f"dict(type='{hook.__name__}', ...)"
                )

    def _arm(self, runner: Runner, student_updates: int) -> None:
        """Say what the next call of the mover is to do."""
        assert self._steps is not None
        self.mover.following = not begun(runner, self.settings, student_updates)
        due = self._steps.due()  # Between two optimizer steps the student does not change.
        self.mover.held = not (due or self.settings.every_iter)

    def _guard(self, runner: Runner) -> Guard:
        """The checks around the updates of this run."""

        def skipped(names: Sequence[str], step: int, count: int) -> None:
            runner.message_hub.update_scalar('train/skipped_updates', count)
            if count == 1:
                runner.logger.warning(
                    f'{type(self).__name__}: left out update {step}, since student tensor '
                    f'{names[0]!r} is not finite; train/skipped_updates counts such updates.'
                )

        settings = self.settings
        return Guard(
            self.mover.ensemble.smoother,
            settings.check_teachers,
            settings.check_finite,
            skipped if settings.non_finite == 'skip' else None,
        )

    def _say(self, runner: Runner, continued: bool) -> None:
        """Log what the hook does, in the words of the check."""
        mover, name = self.mover, type(self).__name__
        what, *cautions = mover.describe()
        step, total = mover.ensemble.step, mover.ensemble.total
        runner.logger.info(f'{name}: {what}; seed {mover.seed}; update {step} of {total}.')
        if continued:
            cautions.append(
                "the teacher in the checkpoint continues; initial_teacher='student' starts from "
                'the student instead'
            )
        for caution in cautions:
            runner.logger.warning(f'{name}: {caution}.')


@HOOKS.register_module()
class SETMAHook(SpatialEnsembleHook):
    """Move the teacher by Spatial-Temporal Smoothing (STS).

    At each update every unit of the teacher is kept with probability ``keep_prob``, or moved
    towards the student's by the average that the config had: Spatial Ensemble composed with a
    temporal moving average (TMA). With ``keep_prob=0`` it is that average alone. Source: Huang et
    al., NeurIPS 2021, https://arxiv.org/abs/2110.01253.

    Example:
        >>> custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SETMAHook', keep_prob=0.7)]

    Args:
        **options: Those of :class:`~se_mm.smoothing.Settings`, where a ``momentum`` of None is the
            average that is replaced; and those of the hook whose line this was: see
            :mod:`se_mm.engine.hooks.line`.
    """

    defaults: ClassVar[dict[str, Any]] = {'keep_prob': 0.7, 'momentum': None}
