# SPDX-License-Identifier: Apache-2.0
"""The hooks that update a teacher: by Spatial Ensemble alone, and with an average."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Optional

from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from se_mm.engine.hooks.evaluation import begin_evaluation, end_evaluation
from se_mm.engine.hooks.hook_options import read_options
from se_mm.engine.hooks.recalibrate import check_recalibration, recalibrate
from se_mm.engine.hooks.record import load_teacher, save_teacher
from se_mm.engine.hooks.run_length import OptimizerSteps, begun, check_begin, updates_of
from se_mm.engine.hooks.teacher_curves import TeacherCurves
from se_mm.smoothing.guards import Guard
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.settings import RECALIBRATE
from se_mm.teachers import Pair, Shadow, Teacher, Updater, find_teacher, plain_model


@HOOKS.register_module()
class SpatialEnsembleHook(Hook):
    """Update the teacher by Spatial Ensemble (SE).

    At each update every unit of the teacher is kept with probability ``keep_prob``, or replaced by
    the student's. The hook finds the teacher and changes nothing else: not the model, not the loss,
    not the names in the checkpoint. Source: Huang et al., NeurIPS 2021,
    https://arxiv.org/abs/2110.01253.

    Example:
        >>> custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.99)]

    Args:
        **options: Those of :class:`~se_mm.smoothing.Settings`, without those of an average, and
            those of the stock hook that is replaced: see :mod:`se_mm.engine.hooks.hook_options`.

    Attributes:
        settings: The options, validated.
        updater: What updates the teacher; set by :meth:`bind`.

    Raises:
        OptionError: If an option is invalid, or, before the first iteration, does not fit the model
            or the run.
        TeacherFault: During training, if a check of student or teacher fails.
    """

    priority = 'NORMAL'
    defaults: ClassVar[dict[str, Any]] = {'keep_prob': 0.99, 'momentum': 1.0}
    updater: Updater

    def __init__(self, **options: Any) -> None:
        self._options = read_options(type(self).__name__, self.defaults, options)
        self.settings = self._options.settings
        self._model: Optional[nn.Module] = None
        self._steps: Optional[OptimizerSteps] = None
        self._curves: Optional[TeacherCurves] = None

    @property
    def _writer(self) -> dict[str, Any]:
        """What a checkpoint has about this hook."""
        return {'hook': type(self).__name__, 'options': self._options.settings.plain()}

    @property
    def teacher(self) -> Optional[Teacher]:
        """The teacher, once it is found."""
        return None if self._model is None else self.updater.teacher

    def bind(self, model: nn.Module) -> Updater:
        """Find the teacher of a model and pair it with its student. The model is not changed.

        The model must be without its wrapper, and may be on the meta device.
        """
        if self._model is model:
            return self.updater
        settings = self._options.settings
        teacher = find_teacher(model, settings, self._options.kind, self._options.ema)
        if settings.evaluate_on is not None and not isinstance(teacher, Shadow):
            raise OptionError(
                f"evaluate_on needs a copy of the model, kind='shadow': {type(model).__name__} has "
                f'its teacher {teacher.path!r} inside and decides what is evaluated'
            )
        if settings.momentum is None:
            settings = replace(settings, momentum=teacher.momentum)
        updater = Updater(teacher, settings)
        if teacher.student is not None:
            updater.smoother.bind(teacher.student)
        self.settings, self.updater, self._model = settings, updater, model
        return updater

    def before_run(self, runner: Runner) -> None:
        """Install the update. Called once the model is built and wrapped, before weights exist."""
        updater = self.bind(plain_model(runner.model))
        self.check_other_hooks(type(hook) for hook in runner.hooks if hook is not self)
        if isinstance(runner._train_loop, BaseLoop):
            check_begin(self.settings, runner.max_iters, runner.max_epochs)
        if self.settings.buffers == RECALIBRATE:
            check_recalibration(updater, runner)
        updater.teacher.install(updater)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the teacher from a checkpoint, before the model loads the rest."""
        load_teacher(self.updater, runner, checkpoint, self._writer)

    def before_train(self, runner: Runner) -> None:
        """Start the teacher. Called once the weights are initialised or loaded."""
        updater = self.updater
        fresh = runner.iter == 0
        continued = fresh and updater.started
        if fresh and not continued:
            self._check_start(updater.teacher)
        updater.guard = self._guard(runner)
        following = not begun(runner, self.settings, student_updates=0)
        updater.start(runner.seed, updates_of(runner, updater), fresh, following)
        self._steps = OptimizerSteps(runner, made=updater.teacher.updated_by_model)
        if self.settings.curves:
            self._curves = TeacherCurves(updater)
        self._log_start(runner, continued)

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """End a recalibration, and prepare an update that the model may trigger."""
        self.updater.restore_statistics()
        if self.updater.teacher.updated_by_model:
            self._prepare(runner, student_updates=runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, *_: Any, **__: Any) -> None:
        """Update the teacher, unless the model triggers the updates."""
        updater = self.updater
        if not updater.teacher.updated_by_model:
            self._prepare(runner, student_updates=runner.iter + 1)
            updater()
        last = runner.iter + 1 >= runner.max_iters
        updater.count_opportunity(last)
        if self._curves is not None:
            self._curves.log(runner, batch_idx)
        if last and self.settings.buffers == RECALIBRATE:
            recalibrate(updater, runner)  # For the last checkpoint, which is saved after this.

    def before_val_epoch(self, runner: Runner) -> None:
        """Let the model have the values of a shadow."""
        begin_evaluation(self.updater, runner)

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Restore the model's own values, and validate the student for ``evaluate_on='both'``."""
        end_evaluation(self.updater, runner, 'val', metrics)

    before_test_epoch = before_val_epoch

    def after_test_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Restore the model's own values, and test the student for ``evaluate_on='both'``."""
        end_evaluation(self.updater, runner, 'test', metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what a resume needs besides the model. Called on rank 0."""
        save_teacher(self.updater, runner, checkpoint, self._writer)

    def check_other_hooks(self, others: Iterable[type]) -> None:
        """Raise OptionError if the class of another hook updates the teacher too."""
        # mmdet's MeanTeacherHook is recognised by its method, since mmdet may not be installed.
        # Other hooks are noticed when they change the teacher.
        shadow = isinstance(self.updater.teacher, Shadow)
        for hook in others:
            replaced = issubclass(hook, EMAHook) if shadow else hasattr(hook, 'momentum_update')
            if issubclass(hook, SpatialEnsembleHook) or replaced:
                raise OptionError(
                    f'custom_hooks must have only one hook that updates the teacher, got '
                    f'{type(self).__name__} and {hook.__name__}: remove '
                    f"dict(type='{hook.__name__}', ...)"
                )

    def _check_start(self, teacher: Teacher) -> None:
        """Raise OptionError for a pretrained teacher, unless an option says what to do with it."""
        settings = self.settings
        named = settings.kind or settings.teacher or self._options.kind
        if isinstance(teacher, Pair) and not named and settings.initial_teacher != 'student':
            teacher.check_start()

    def _prepare(self, runner: Runner, student_updates: int) -> None:
        """Set what the next call of the updater does."""
        assert self._steps is not None
        self.updater.following = not begun(runner, self.settings, student_updates)
        due = self._steps.due()  # Between two optimizer steps the student does not change.
        self.updater.held = not (due or self.settings.every_iter)

    def _guard(self, runner: Runner) -> Guard:
        """The checks around the updates of this run."""

        def skipped(names: Sequence[str], step: int, count: int) -> None:
            runner.message_hub.update_scalar('train/skipped_updates', count)
            if count == 1:
                runner.logger.warning(
                    f'{type(self).__name__}: skipped update {step}, since student tensor '
                    f'{names[0]!r} is not finite; train/skipped_updates counts such updates.'
                )

        skips = self.settings.non_finite == 'skip'
        return Guard(self.updater.smoother, skipped if skips else None)

    def _log_start(self, runner: Runner, continued: bool) -> None:
        """Log what the hook does, in the words of the check."""
        updater, name = self.updater, type(self).__name__
        what, *cautions = updater.describe()
        step, total = updater.ensemble.step, updater.ensemble.total
        runner.logger.info(f'{name}: {what}; seed {updater.seed}; update {step} of {total}.')
        if continued:
            cautions.append(
                "the teacher in the checkpoint continues; initial_teacher='student' starts from "
                'the student instead'
            )
        for caution in cautions:
            runner.logger.warning(f'{name}: {caution}.')


@HOOKS.register_module()
class SETMAHook(SpatialEnsembleHook):
    """Update the teacher by Spatial-Temporal Smoothing (STS).

    At each update every unit of the teacher is kept with probability ``keep_prob``, or averaged
    with the student's as the config does already: Spatial Ensemble composed with a temporal moving
    average (TMA). With ``keep_prob=0`` it is that average alone. Source: Huang et
    al., NeurIPS 2021, https://arxiv.org/abs/2110.01253.

    Example:
        >>> custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SETMAHook', keep_prob=0.7)]

    Args:
        **options: Those of :class:`~se_mm.smoothing.Settings`, where a ``momentum`` of None is the
            average of the config, and those of the stock hook that is replaced: see
            :mod:`se_mm.engine.hooks.hook_options`.
    """

    defaults: ClassVar[dict[str, Any]] = {'keep_prob': 0.7, 'momentum': None}
