# SPDX-License-Identifier: Apache-2.0
"""The hooks that move a teacher: Spatial Ensemble alone, and with an average."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Optional, Union

from mmengine.dist import get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from se_mm.engine.hooks.evaluation import evaluate_student
from se_mm.engine.hooks.line import read_line
from se_mm.engine.hooks.record import CHECKPOINT_KEY, changed_options, read_record, record
from se_mm.engine.hooks.steps import OptimizerSteps, optim_wrappers
from se_mm.engine.hooks.teacher_curves import TeacherCurves
from se_mm.history.segments import History
from se_mm.smoothing.guards import Guard
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.picks import rank_seed
from se_mm.teachers import Mover, Pair, Shadow, Teacher, find_teacher, plain_model

Batch = Union[dict, tuple, list, None]


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
        teacher: The teacher, once found.
        mover: What moves it, once the teacher is found.

    Raises:
        OptionError: If an option is invalid; and before the first iteration, if it does not fit the
            model or the run.
        TeacherFault: During training, if a check of student or teacher fails.
    """

    priority = 'NORMAL'
    defaults: ClassVar[dict[str, Any]] = {'keep_prob': 0.99, 'momentum': 1.0}

    def __init__(self, **options: Any) -> None:
        self._line = read_line(type(self).__name__, self.defaults, options)
        self.settings = self._line.settings
        self.teacher: Optional[Teacher] = None
        self.mover: Optional[Mover] = None
        self._model: Optional[nn.Module] = None
        self._history = History()
        self._curves: Optional[TeacherCurves] = None
        self._steps: Optional[OptimizerSteps] = None
        self._resumed: Optional[dict[str, Any]] = None

    def bind(self, model: nn.Module) -> Mover:
        """Find the teacher of a model and pair it with its student, and change nothing.

        Args:
            model: The model without its wrapper. It may be on the meta device.

        Raises:
            OptionError: If an option does not fit the model, or nothing would ever be moved.
        """
        if self.mover is not None and self._model is model:
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
        self.settings, self.teacher, self.mover, self._model = settings, teacher, mover, model
        return mover

    def before_run(self, runner: Runner) -> None:
        """Install the mover.

        Called once the model is built and wrapped, before its weights are initialised or loaded.
        """
        if self._model is not None and self._model is plain_model(runner.model) and self._steps:
            return  # The same runner trains and then tests.
        mover = self.bind(plain_model(runner.model))
        self.check_other_hooks(type(hook) for hook in runner.hooks if hook is not self)
        if isinstance(runner._train_loop, BaseLoop):
            self.check_begin(runner.max_iters, runner.max_epochs)
        self.teacher.install(mover)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the teacher's part out of a checkpoint, before the model loads the rest.

        Called when a checkpoint was read, to resume or by ``load_from``.
        """
        training = isinstance(runner._train_loop, BaseLoop)
        beside = 'ema_state_dict' in checkpoint
        if training and runner._resume:
            if isinstance(self.teacher, Shadow):
                self.teacher.resume(runner, checkpoint)
                # Before the first update the copy is there too, and will be made once more.
                self.mover.started = beside and bool(checkpoint['ema_state_dict'].get('steps', 1))
            self._resume(runner, checkpoint)
        elif isinstance(self.teacher, Shadow):
            if beside and not training and self.settings.evaluate_on in ('student', 'both'):
                self.teacher.load_both(checkpoint)
                self.mover.started = True
        elif self.settings.initial_teacher == 'loaded':
            state = checkpoint.get('state_dict', checkpoint)
            names = [name.removeprefix('module.') for name in state]
            self.mover.started = any(
                name.startswith(f'{part}.') for part in self.teacher.parts for name in names
            )

    def before_train(self, runner: Runner) -> None:
        """Settle what depends on the run: its seed, its length, and where it stands.

        Called once the weights are initialised, loaded or resumed.
        """
        mover, resumed = self.mover, self._resumed
        continued = runner.iter == 0 and mover.started
        ensemble = mover.ensemble
        seeds = (self.settings.seed, resumed and resumed['seed'], runner.seed, 0)
        seed = next(seed for seed in seeds if seed is not None)
        ensemble.seed = rank_seed(seed, get_rank() if self.settings.diff_rank_picks else 0)
        ensemble.total = self._updates(runner)
        self.check_interval(ensemble.total)
        if runner.iter == 0 and not mover.started:
            ensemble.step = 0  # The first update copies the student.
        elif mover.started:
            ensemble.step = max(1, ensemble.step)
        mover.started = mover.started or ensemble.step > 0
        ensemble.restore(resumed['fp32'] if resumed else {})
        self._seed = seed
        self._steps = OptimizerSteps(runner, made=self.teacher.updated_by_model)
        mover.guard = self._guard(runner)
        mover.history = self._history
        settings = self.settings
        named = settings.kind or settings.teacher or self._line.kind
        said = named or settings.initial_teacher == 'student'
        if isinstance(self.teacher, Pair) and runner.iter == 0 and not (mover.started or said):
            self.teacher.check_start()
        mover.copy_student()
        mover.weight(max(1, ensemble.step))  # Fails if match_horizon does not fit the average.
        mover.record_settings(ensemble.step)
        if self.teacher.taught_from_start and runner.iter == 0 and not mover.started:
            mover.following = not self._begun(runner, student_updates=0)
            mover()
        mover.watch()
        if self.settings.curves:
            self._curves = TeacherCurves(mover)
        self._say(runner, continued)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batch = None) -> None:
        """Tell the mover whether an update is due, where the model asks for it."""
        if self.teacher.updated_by_model:
            self._arm(runner, student_updates=runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Batch = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Update a teacher that the model does not update itself, if an update is due."""
        if not self.teacher.updated_by_model:
            self._arm(runner, student_updates=runner.iter + 1)
            self.mover()
        if self.mover.watching and not (self.mover.held or self.mover.following):
            self.mover.count_opportunity(last=runner.iter + 1 >= runner.max_iters)
        if self._curves is not None:
            self._curves.log(runner, batch_idx)

    def before_val_epoch(self, runner: Runner) -> None:
        """Put a teacher beside the model into it, to be validated."""
        self._before_evaluation()

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Take it out again, and validate the student too if asked to."""
        self._after_evaluation(runner, 'val', metrics)

    def before_test_epoch(self, runner: Runner) -> None:
        """Put a teacher beside the model into it, to be tested."""
        self._before_evaluation()

    def after_test_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Take it out again, and test the student too if asked to."""
        self._after_evaluation(runner, 'test', metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what the picks of this run need besides the state dict, and a teacher beside it.

        Called on rank 0 alone, before a file is written.
        """
        mover = self.mover
        if mover.guard is not None:
            mover.guard.check_saved(mover.ensemble.step)
        if isinstance(self.teacher, Shadow):
            mover.copy_student()
            self.teacher.save(runner, checkpoint)
        checkpoint[CHECKPOINT_KEY] = record(
            hook=type(self).__name__,
            seed=self._seed,
            step=mover.ensemble.step,
            options=self._line.settings.plain(),
            teacher={'kind': self.teacher.kind, 'parts': self.teacher.parts},
            fp32=mover.ensemble.smoother.fp32,
            history=self._history.segments,
        )

    @property
    def history(self) -> tuple[int, list[dict[str, Any]]]:
        """Updates made, and what was in force at each: see :mod:`se_mm.history.segments`."""
        return self.mover.ensemble.step, self._history.segments

    def describe(self) -> list[str]:
        """What the hook will do and what may surprise, one line each, for the log and the check."""
        settings, smoother = self.settings, self.mover.ensemble.smoother
        rule = str(settings.default)
        average = self.mover.describe()
        if average is not None:
            rule = rule.replace("the model's own average", f"the model's own momentum {average}")
        lines = [f'{self.teacher}; {rule}; buffers {smoother.buffers}']
        if smoother.shared:
            lines.append(
                f'teacher and student share {len(smoother.shared)} tensors, as '
                f'{smoother.shared[0]!r}, which are left as they are'
            )
        return lines + list(self.teacher.cautions)

    def check_other_hooks(self, others: Iterable[type]) -> None:
        """Check that no other hook of the run takes this one's place.

        Args:
            others: The classes of the run's other hooks.

        Raises:
            OptionError: If one does.
        """
        name = type(self).__name__
        # Mean teachers are told by their method, since mmdet need not be installed. Other movers
        # are noticed by what they do.
        shadow = isinstance(self.teacher, Shadow)
        for hook in others:
            replaced = issubclass(hook, EMAHook) if shadow else hasattr(hook, 'momentum_update')
            if issubclass(hook, SpatialEnsembleHook) or replaced:
                raise OptionError(
                    f'custom_hooks must have one hook that moves the teacher, got {name} and '
                    f"{hook.__name__}: remove the line dict(type='{hook.__name__}', ...)"
                )

    def check_begin(self, max_iters: Optional[int], max_epochs: Optional[int]) -> None:
        """Check that the run reaches the begin of the smoothing.

        Args:
            max_iters: Iterations of the run. None: not known yet.
            max_epochs: Its epochs. None: it has none.

        Raises:
            OptionError: If it does not.
        """
        settings = self.settings
        if max_iters is not None and settings.begin_iter >= max_iters:
            raise OptionError(
                f'begin_iter must be < {max_iters}, the iterations of the run, got '
                f'{settings.begin_iter}'
            )
        if max_epochs is not None and settings.begin_epoch > max_epochs:
            raise OptionError(
                f'begin_epoch must be <= {max_epochs}, the epochs of the run, got '
                f'{settings.begin_epoch}'
            )

    def check_interval(self, updates: int) -> None:
        """Check that the run reaches a second update.

        Args:
            updates: Opportunities for an update in the run.

        Raises:
            OptionError: If the teacher would stay as the first of them left it.
        """
        if self.mover.interval > updates:
            raise OptionError(
                f'interval must be <= {updates}, the opportunities for an update in the run, got '
                f'{self.mover.interval}'
            )

    def count_updates(self, max_iters: int, max_epochs: int, accumulated: int) -> int:
        """Opportunities for an update between the begin and the end of a run.

        Args:
            max_iters: Iterations of the run.
            max_epochs: Its epochs, at least 1.
            accumulated: Iterations from one optimizer step to the next.
        """
        begin = self.settings.begin_iter
        if self.settings.begin_epoch:
            begin = (self.settings.begin_epoch - 1) * (max_iters // max_epochs)
        each = 1 if self.settings.every_iter else accumulated
        updates = max(1, math.ceil((max_iters - begin) / each))
        return updates + (self.teacher.taught_from_start and begin == 0)

    def _updates(self, runner: Runner) -> int:
        """Opportunities for an update between the begin and the end of the run."""
        counts = [getattr(o, '_accumulative_counts', 1) for o in optim_wrappers(runner)]
        return self.count_updates(runner.max_iters, runner.max_epochs, min(counts))

    def _resume(self, runner: Runner, checkpoint: dict) -> None:
        """Take over the record of the checkpoint, and warn of options that have changed."""
        name = type(self).__name__
        saved = read_record(checkpoint)
        if not self.teacher.saved_with_steps:
            # A stock hook or model makes an update at every iteration.
            self.mover.ensemble.step = saved['step'] if saved else checkpoint['meta']['iter']
        if saved is None:
            runner.logger.info(f'{name}: the checkpoint was written without it.')
            return
        self._resumed = saved
        self._history = History(saved['history'])
        changes = changed_options(saved, name, self._line.settings.plain())
        if changes:
            runner.logger.warning(
                f'{name}: the checkpoint was written with other options: {", ".join(changes)}.'
            )

    def _guard(self, runner: Runner) -> Guard:
        """The checks around the updates of this run."""

        def skipped(names: list[str], step: int, count: int) -> None:
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
        """Log what the hook does."""
        ensemble = self.mover.ensemble
        what, *cautions = self.describe()
        runner.logger.info(
            f'{type(self).__name__}: {what}; seed {self._seed}; update {ensemble.step} of '
            f'{ensemble.total}.'
        )
        if continued:
            cautions.append(
                'the teacher of the checkpoint that was loaded continues; initial_teacher='
                "'student' starts from the student instead"
            )
        for caution in cautions:
            runner.logger.warning(f'{type(self).__name__}: {caution}.')

    def _arm(self, runner: Runner, student_updates: int) -> None:
        """Say what the next call of the mover is to do.

        Args:
            runner: The runner of the run.
            student_updates: Iterations that the student has been trained for.
        """
        self.mover.following = not self._begun(runner, student_updates)
        due = self._steps.due()  # Between two optimizer steps the student does not change.
        self.mover.held = not (due or self.settings.every_iter)

    def _begun(self, runner: Runner, student_updates: int) -> bool:
        """Whether smoothing has begun."""
        if self.settings.begin_epoch:
            return runner.epoch + 1 >= self.settings.begin_epoch
        return student_updates >= self.settings.begin_iter

    def _before_evaluation(self) -> None:
        """Before the first update the model itself is the teacher."""
        if not isinstance(self.teacher, Shadow) or self.settings.evaluate_on == 'student':
            return
        if self.mover.started:
            self.teacher.swap()

    def _after_evaluation(self, runner: Runner, stage: str, metrics: Optional[dict]) -> None:
        if not isinstance(self.teacher, Shadow) or self.settings.evaluate_on == 'student':
            return
        if self.mover.started:
            self.teacher.swap()
        if self.settings.evaluate_on == 'both':
            evaluate_student(runner, stage, metrics)


@HOOKS.register_module()
class SETMAHook(SpatialEnsembleHook):
    """Move the teacher by Spatial-Temporal Smoothing (STS).

    At each update every unit of the teacher is kept with probability ``keep_prob``, or moved towards
    the student's by the average that the config had: Spatial Ensemble composed with a temporal
    moving average (TMA). With ``keep_prob=0`` it is that average alone. Source: Huang et al.,
    NeurIPS 2021, https://arxiv.org/abs/2110.01253.

    Example:
        >>> custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SETMAHook', keep_prob=0.7)]

    Args:
        **options: Those of :class:`~se_mm.smoothing.Settings`, where a ``momentum`` of None is the
            average that is replaced; and those of the hook whose line this was: see
            :mod:`se_mm.engine.hooks.line`.

    Raises:
        OptionError: As :class:`SpatialEnsembleHook`.
        TeacherFault: As :class:`SpatialEnsembleHook`.
    """

    defaults: ClassVar[dict[str, Any]] = {'keep_prob': 0.7, 'momentum': None}
