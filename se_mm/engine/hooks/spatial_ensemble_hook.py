# SPDX-License-Identifier: Apache-2.0
"""The hook that lets a teacher follow its student by Spatial Ensemble."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union

from mmengine.dist import get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor, nn

from se_mm.engine.hooks.record import CHECKPOINT_KEY, changed_options, read_record, record
from se_mm.engine.hooks.stock_options import stock_buffers, stock_evaluate_on
from se_mm.engine.hooks.teacher_curves import TeacherCurves
from se_mm.engine.teachers import Pair, Shadow, Teacher, find_teacher
from se_mm.models import SmoothedModel
from se_mm.smoothing import BUFFER_POLICIES, GRANULARITIES, Rule, Smoother, build_rules
from se_mm.smoothing.guard import NON_FINITE, Guard, sharded
from se_mm.smoothing.history import History, settings_of
from se_mm.smoothing.options import (
    OptionError,
    check_choice,
    check_count,
    check_flag,
    check_keys,
)
from se_mm.smoothing.picks import rank_seed
from se_mm.smoothing.rules import SKIP
from se_mm.smoothing.schedules import keep_prob_schedule

EVALUATE_ON = ('teacher', 'student', 'both')


@HOOKS.register_module()
class SpatialEnsembleHook(Hook):
    """Lets the teacher follow its student by Spatial Ensemble (SE).

    At each update every unit of the teacher is either kept, with probability ``keep_prob``, or
    replaced by the student's. The hook finds the teacher by itself and changes nothing else: not
    the model, not the loss, not the names in the checkpoint. Source: Huang et al., NeurIPS 2021,
    https://arxiv.org/abs/2110.01253.

    Example:
        >>> custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.99)]

    Args:
        keep_prob: Probability in [0, 1) that a unit is kept at an update; or a schedule of it, as
            ``dict(type='cosine', start=0.5, end=0.99)`` (also ``'linear'``). A teacher as slow as
            an average of momentum m needs ``1 - m``.
        granularity: What a unit is: ``'tensor'``, ``'layer'`` (all tensors that one module holds
            itself), ``'channel'`` (an index of their dimension 0) or ``'element'``.
        overrides: Part of a tensor's name in the student -> ``dict(keep_prob=, granularity=)``,
            ``'copy'`` (follow at every update) or ``'skip'`` (stay as the first update left it).
            The longest part counts.
        buffers: ``'copy'``: buffers follow the student at every update; ``'average'``: those of
            floating dtype are smoothed like parameters; ``'skip'``: they stay as the first update
            left them. Integer buffers are always copied, but for ``'skip'``. None: ``'copy'``.
        interval: Updates are made at every ``interval``-th opportunity, at least 1.
        begin_iter: Iteration, from 0, at which smoothing begins; before it the teacher is equal to
            the student.
        begin_epoch: The same in epochs, counted from 1 as ``EMAHook`` does. Not both.
        every_iter: Under gradient accumulation, whether to update at every iteration and not only
            after the iterations at which the optimizer steps.
        seed: Seed of the picks. None: the run's.
        diff_rank_picks: Whether each rank makes other picks, as the released code does. The
            teachers then differ, and the one that is saved is rank 0's.
        check_teachers: Updates from one comparison of the ranks' teachers to the next; where they
            differ, the run ends. Parameters alone are compared: the statistics of a batch norm that
            is not synchronised rightly differ. 0: never.
        check_finite: Opportunities for an update from one look at the student to the next, the
            first included: nothing is taken over while it is not finite. Student and teacher are
            then looked at before each checkpoint, too. Constants that are not finite when training
            starts, as masks of ``-inf``, are left out. 0: never.
        non_finite: What then happens: ``'stop'``: the run ends; ``'skip'``: the update is left out
            and counted in the scalar ``train/skipped_updates``, which needs ``check_finite=1``.
        curves: Whether the log has ``teacher/keep_prob``, ``teacher/momentum``, ``teacher/taken``
            (share of units taken over since the last log) and, for each part of the model,
            ``teacher/distance/PART``, ``|t - s| / |s|`` of its parameters.
        teacher: Dotted name of the teacher in the model. None: the only one.
        student: Dotted name of its student, or a list of the names of its parts. None: found.
        evaluate_on: For a teacher beside the model, what is validated and tested: ``'teacher'``,
            ``'student'``, or ``'both'``, where the student's metrics end in ``_origin`` as in
            mmpretrain. None: the teacher.
        **others: Options of the hook whose line this one was: ``update_buffers``, ``skip_buffer``,
            ``evaluate_on_ema`` and ``evaluate_on_origin``, instead of ours.

    Raises:
        OptionError: If an option does not exist or is out of its range; and before the first
            iteration, if it does not fit the model or the run.
        TeacherFault: While training, if a look at student or teacher finds one.
    """

    priority = 'NORMAL'
    # Copies lose nothing: there is nothing to keep.
    fp32_teacher = False

    def __init__(
        self,
        keep_prob: Any = 0.99,
        granularity: str = 'tensor',
        overrides: Optional[Mapping[str, Any]] = None,
        buffers: Optional[str] = None,
        interval: int = 1,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        every_iter: bool = False,
        seed: Optional[int] = None,
        diff_rank_picks: bool = False,
        check_teachers: int = 0,
        check_finite: int = 100,
        non_finite: str = 'stop',
        curves: bool = True,
        teacher: Optional[str] = None,
        student: Union[str, Sequence[str], None] = None,
        evaluate_on: Optional[str] = None,
        **others: Any,
    ) -> None:
        buffers = stock_buffers(buffers, others)
        evaluate_on = stock_evaluate_on(evaluate_on, others)
        self._options = {
            'keep_prob': keep_prob,
            'granularity': granularity,
            'overrides': {} if overrides is None else overrides,
            'buffers': buffers,
            'interval': interval,
            'begin_iter': begin_iter,
            'begin_epoch': begin_epoch,
            'every_iter': every_iter,
            'seed': seed,
            'diff_rank_picks': diff_rank_picks,
            'check_teachers': check_teachers,
            'check_finite': check_finite,
            'non_finite': non_finite,
            'curves': curves,
            'teacher': teacher,
            'student': student,
            'evaluate_on': evaluate_on,
        }
        check_keys(type(self).__name__, others, self._option_names())
        self.keep_prob = keep_prob_schedule('keep_prob', keep_prob)
        self.granularity = check_choice('granularity', granularity, GRANULARITIES)
        self.buffers = check_choice('buffers', buffers, BUFFER_POLICIES)
        self.interval = check_count('interval', interval, 1)
        self.begin_iter = check_count('begin_iter', begin_iter)
        self.begin_epoch = check_count('begin_epoch', begin_epoch)
        if begin_iter and begin_epoch:
            raise OptionError(
                f'begin_iter={begin_iter} and begin_epoch={begin_epoch} cannot both be set: leave '
                f'one of them 0.'
            )
        self.every_iter = check_flag('every_iter', every_iter)
        self.seed = None if seed is None else check_count('seed', seed)
        self.diff_rank_picks = check_flag('diff_rank_picks', diff_rank_picks)
        self.check_teachers = check_count('check_teachers', check_teachers)
        self.check_finite = check_count('check_finite', check_finite)
        self.non_finite = check_choice('non_finite', non_finite, NON_FINITE)
        self.curves = check_flag('curves', curves)
        if check_teachers and diff_rank_picks:
            raise OptionError(
                f'check_teachers={check_teachers} is not allowed with diff_rank_picks=True, by '
                f'which the teachers are to differ: 0.'
            )
        if non_finite == 'skip' and check_finite != 1:
            raise OptionError(
                f"non_finite='skip' is not allowed with check_finite={check_finite}, since what is "
                f'not finite would be taken over between two checks: check_finite=1.'
            )
        if evaluate_on is not None:
            check_choice('evaluate_on', evaluate_on, EVALUATE_ON)
        self.evaluate_on = evaluate_on
        if teacher is not None and not (isinstance(teacher, str) and teacher):
            raise OptionError(f'teacher={teacher!r} is not allowed: the dotted name of a module.')
        parts = [student] if isinstance(student, str) or student is None else student
        if not isinstance(parts, Sequence) or not all(
            p is None or isinstance(p, str) for p in parts
        ):
            raise OptionError(
                f'student={student!r} is not allowed: the dotted name of a module, or a list of '
                f'such names.'
            )
        self.teacher: Optional[Teacher] = None
        self._smoothed: Optional[SmoothedModel] = None
        self._resumed_seed: Optional[int] = None
        self._resumed_fp32: dict[str, Tensor] = {}
        self._history = History()
        self._curves: Optional[TeacherCurves] = None
        # What of an override can be wrong without a model is found now.
        build_rules(self._rule(), self._options['overrides'])

    def bind(self, model: nn.Module) -> tuple[Teacher, Smoother]:
        """Find the teacher of a model and work out how it is updated, and change nothing.

        Args:
            model: The model without its wrapper. It may be on the meta device.

        Returns:
            The teacher, and what would move it.

        Raises:
            OptionError: If an option does not fit the model, or nothing would ever be moved.
        """
        teacher = find_teacher(model, self._options['teacher'], self._options['student'])
        if self.evaluate_on is not None and not isinstance(teacher, Shadow):
            raise OptionError(
                f'evaluate_on={self.evaluate_on!r} is not allowed: {type(model).__name__} holds '
                f'its teacher {teacher.path!r} itself, and decides what is evaluated.'
            )
        shard = sharded(teacher.parameters)
        if self.check_teachers and shard:
            raise OptionError(
                f'check_teachers={self.check_teachers} is not allowed for {shard!r}, of which each '
                f'rank has another shard: 0.'
            )
        rules = build_rules(self._rule(teacher), self._options['overrides'])
        smoother = Smoother(
            teacher.parameters, teacher.buffers, rules, self.buffers, self.fp32_teacher
        )
        names = [pair.name for pair in teacher.parameters]
        if not names:
            raise OptionError(
                f'{type(model).__name__} has no parameters that a teacher could have.'
            )
        if all(rules.of(name) == SKIP for name in names):
            raise OptionError(
                f'overrides={dict(rules.overrides)!r} skips all {len(names)} parameters of the '
                f'teacher, which nothing would move: leave one, or drop the hook.'
            )
        return teacher, smoother

    def before_run(self, runner: Runner) -> None:
        """Find and bind the teacher.

        Called once the model is built and wrapped, before its weights are initialised or loaded.
        """
        if self.teacher is not None:  # The same runner trains and then tests.
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        teacher, smoother = self.bind(model)
        self.check_other_hooks((type(hook) for hook in runner.hooks if hook is not self), teacher)
        if isinstance(runner._train_loop, BaseLoop):
            self.check_begin(runner.max_iters, runner.max_epochs)
        self._smoothed = teacher.install()
        self._smoothed.smoother = smoother
        self._smoothed.interval = self.interval
        self.teacher = teacher

    def before_train(self, runner: Runner) -> None:
        """Settle what depends on the run: its seed, its length, and where it stands.

        Called once the weights are initialised, loaded or resumed.
        """
        seed = next(s for s in (self.seed, self._resumed_seed, runner.seed, 0) if s is not None)
        self.seed = seed
        rank = get_rank() if self.diff_rank_picks else 0
        self._smoothed.seed = rank_seed(seed, rank)
        self._smoothed.total = self._updates(runner)
        self.check_interval(self._smoothed.total)
        self._smoothed.restore(self._resumed_fp32)
        if runner.iter == 0:
            # A teacher that was only loaded is no history: the first update copies the student.
            self._smoothed.step = 0
        smoothed = self._smoothed
        self._history.go_on(
            smoothed.step,
            settings_of(smoothed.smoother, smoothed.seed, smoothed.total, self.interval),
        )
        smoothed.history = self._history
        if self.curves:
            self._curves = TeacherCurves(smoothed, self.teacher.parameters)
        smoothed.guard = self._guard(runner)
        runner.logger.info(
            f'{type(self).__name__}: {self.teacher}; {self._rule(self.teacher)}; buffers '
            f'{self.buffers}; seed {seed}; update {self._smoothed.step} of {self._smoothed.total}.'
        )
        if self.teacher.caution:
            runner.logger.warning(f'{type(self).__name__}: {self.teacher.caution}')
        if self.teacher.taught_from_start and runner.iter == 0:
            self._arm(runner, student_updates=0)
            self._smoothed.update_parameters(self.teacher.student)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Union[dict, tuple, list, None] = None
    ) -> None:
        """Tell a teacher that the model updates in its forward whether an update is due."""
        if self.teacher.updated_by_model:
            self._arm(runner, student_updates=runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Union[dict, tuple, list, None] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Update a teacher that the model does not update itself, if an update is due."""
        if not self.teacher.updated_by_model:
            self._arm(runner, student_updates=runner.iter + 1)
            self._smoothed.update_parameters(self.teacher.student)
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
        if self._smoothed.guard is not None:
            self._smoothed.guard.check_saved(self._smoothed.step)
        if isinstance(self.teacher, Shadow):
            self.teacher.save(checkpoint)
        checkpoint[CHECKPOINT_KEY] = record(
            type(self).__name__,
            self.seed,
            self._smoothed.step,
            self._options,
            self._smoothed.smoother.fp32,
            self._history.segments,
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the teacher and the seed out of a checkpoint, and say what differs from it.

        Called before the model loads what is in it.
        """
        training = isinstance(runner._train_loop, BaseLoop)
        resuming = training and runner._resume
        if isinstance(self.teacher, Shadow):
            found = self.teacher.load(checkpoint, resuming or not training, whole=resuming)
            if resuming and not found:
                runner.logger.warning(
                    f'{type(self).__name__}: the checkpoint holds no teacher, so it starts as a '
                    f'copy of the student.'
                )
        if resuming:
            saved = read_record(checkpoint)
            self._compare(runner, saved)
            if not self.teacher.saved_with_steps:
                # A stock hook or model makes an update at every iteration.
                self._smoothed.step = saved['step'] if saved else checkpoint['meta']['iter']

    @property
    def history(self) -> tuple[int, list[dict[str, Any]]]:
        """Updates made, and what was in force at each: see :mod:`se_mm.smoothing.history`."""
        return self._smoothed.step, self._history.segments

    def _option_names(self) -> list[str]:
        return list(self._options)

    def _rule(self, teacher: Optional[Teacher] = None) -> Rule:
        """The rule of tensors without an override, once the teacher is known or before."""
        return Rule(self.keep_prob, None, False, self.granularity)

    def check_other_hooks(self, others: Iterable[type], teacher: Teacher) -> None:
        """Refuse a run in which another hook moves the same teacher.

        Args:
            others: The classes of the run's other hooks.
            teacher: The teacher that this hook is bound to.

        Raises:
            OptionError: If one of them does.
        """
        for hook in others:
            name = hook.__name__
            if issubclass(hook, SpatialEnsembleHook):
                raise OptionError(
                    f'custom_hooks has {name} beside {type(self).__name__}: one of them is allowed.'
                )
            replaced = isinstance(teacher, Shadow) and issubclass(hook, EMAHook)
            # By name, since mmdet need not be installed.
            classes = [cls.__name__ for cls in hook.__mro__]
            if replaced or (isinstance(teacher, Pair) and 'MeanTeacherHook' in classes):
                raise OptionError(
                    f'custom_hooks has {name} beside {type(self).__name__}, which takes its place: '
                    f"drop the line dict(type='{name}', ...)."
                )

    def check_begin(self, max_iters: Optional[int], max_epochs: Optional[int]) -> None:
        """Refuse a begin that the run does not reach.

        Args:
            max_iters: Iterations of the run. None: not known yet.
            max_epochs: Its epochs. None: it has none.

        Raises:
            OptionError: If it does not.
        """
        if max_iters is not None and self.begin_iter >= max_iters:
            raise OptionError(
                f'begin_iter={self.begin_iter} is beyond the run: below its {max_iters} iterations.'
            )
        if max_epochs is not None and self.begin_epoch > max_epochs:
            raise OptionError(
                f'begin_epoch={self.begin_epoch} is beyond the run: at most its '
                f'{max_epochs} epochs.'
            )

    def check_interval(self, updates: int) -> None:
        """Refuse an interval that the run does not reach.

        Args:
            updates: Opportunities for an update in the run.

        Raises:
            OptionError: If the teacher would stay as the first of them left it.
        """
        if self.interval > updates:
            raise OptionError(
                f'interval={self.interval} is beyond the run, whose teacher would never be '
                f'updated: at most its {updates} opportunities for an update.'
            )

    def count_updates(
        self, teacher: Teacher, max_iters: int, max_epochs: int, accumulated: int
    ) -> int:
        """Opportunities for an update between the begin and the end of a run.

        Args:
            teacher: The teacher.
            max_iters: Iterations of the run.
            max_epochs: Its epochs, at least 1.
            accumulated: Iterations from one optimizer step to the next.
        """
        begin = self.begin_iter
        if self.begin_epoch:
            begin = (self.begin_epoch - 1) * (max_iters // max_epochs)
        updates = max(1, math.ceil((max_iters - begin) / (1 if self.every_iter else accumulated)))
        return updates + (teacher.taught_from_start and begin == 0)

    def _updates(self, runner: Runner) -> int:
        """Opportunities for an update between the begin and the end of the run."""
        accumulated = min(getattr(o, '_accumulative_counts', 1) for o in _optimizers(runner))
        return self.count_updates(self.teacher, runner.max_iters, runner.max_epochs, accumulated)

    def _guard(self, runner: Runner) -> Guard:
        """What looks at student and teacher in this run."""

        def skipped(names: Sequence[str], step: int, count: int) -> None:
            runner.message_hub.update_scalar('train/skipped_updates', count)
            if count == 1:
                runner.logger.warning(
                    f'{type(self).__name__}: student tensor {names[0]!r} is not finite at update '
                    f'{step}, which is left out; train/skipped_updates counts such updates.'
                )

        guard = Guard(
            self._smoothed.smoother,
            self.check_teachers,
            self.check_finite,
            skipped if self.non_finite == 'skip' else None,
        )
        guard.start()
        if guard.exempt:
            runner.logger.info(
                f'{type(self).__name__}: not finite from the start, and not looked at: '
                f'{", ".join(guard.exempt)}.'
            )
        return guard

    def _arm(self, runner: Runner, student_updates: int) -> None:
        """Say what the next call of ``update_parameters`` is to do.

        Args:
            runner: The runner of the run.
            student_updates: Iterations that the student has been trained for.
        """
        if self.begin_epoch:
            begun = runner.epoch + 1 >= self.begin_epoch
        else:
            begun = student_updates >= self.begin_iter
        # Between two optimizer steps the student does not change.
        stepped = any(o.should_update() for o in _optimizers(runner))
        self._smoothed.following = not begun
        self._smoothed.held = not (stepped or self.every_iter)

    def _before_evaluation(self) -> None:
        if isinstance(self.teacher, Shadow) and self.evaluate_on != 'student':
            self.teacher.swap()

    def _after_evaluation(self, runner: Runner, stage: str, metrics: Optional[dict]) -> None:
        if not isinstance(self.teacher, Shadow) or self.evaluate_on == 'student':
            return
        self.teacher.swap()
        loop = runner.val_loop if stage == 'val' else runner.test_loop
        # A loop that does not go batch by batch asks the teacher and the student itself.
        if self.evaluate_on != 'both' or not hasattr(loop, 'run_iter'):
            return
        runner.model.eval()
        for index, batch in enumerate(loop.dataloader):
            loop.run_iter(index, batch)
        for name, value in loop.evaluator.evaluate(len(loop.dataloader.dataset)).items():
            runner.message_hub.update_scalar(f'{stage}/{name}_origin', value)
            if metrics is not None:
                metrics[f'{name}_origin'] = value

    def _compare(self, runner: Runner, saved: Optional[dict]) -> None:
        """Take the seed over from a checkpoint of ours, and warn of options that changed."""
        name = type(self).__name__
        if saved is None:
            runner.logger.info(f'{name}: goes on from a checkpoint of another hook.')
            return
        self._resumed_seed = saved['seed']
        self._resumed_fp32 = saved['fp32']
        self._history = History(saved['history'])
        changes = changed_options(saved, name, self._options)
        if changes:
            runner.logger.warning(
                f'{name}: resumed with other options than the checkpoint was written with: '
                f'{", ".join(changes)}.'
            )


def _optimizers(runner: Runner) -> list:
    """The optimizer wrappers of a run."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if hasattr(wrapper, 'optim_wrappers') else [wrapper]
