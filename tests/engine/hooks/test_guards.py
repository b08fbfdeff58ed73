# SPDX-License-Identifier: Apache-2.0
"""What is not finite is never taken over or saved, for every kind of teacher."""

import importlib
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from se_mm.engine.hooks import SETMAHook, SpatialEnsembleHook
from se_mm.smoothing import OptionError, TeacherFault

guard = importlib.import_module('se_mm.smoothing.guards.guard')
STS = dict(type='SETMAHook', keep_prob=0.5, momentum=0.2)
SE = dict(type='SpatialEnsembleHook', keep_prob=0.5)
WEIGHT = {'byol': 'backbone.conv1.weight', 'classifier': 'backbone.conv.weight'}
WEIGHT['pair'] = f'student.{WEIGHT["classifier"]}'
KINDS = list(WEIGHT)
# The iteration, from 0, whose update sees the damage.
AT = 4


@HOOKS.register_module(force=True)
class DamageStudentHook(Hook):
    """Makes one number of the student NaN before an update, which stays until it is mended."""

    priority = 'ABOVE_NORMAL'  # Before our hook.

    def __init__(self, name, at=AT, value=math.nan, moved=False):
        self.name, self.at, self.value, self.moved = name, at, value, moved

    def weight(self, runner):
        return dict(runner.model.named_parameters())[self.name].data.view(-1)

    def damage(self, runner):
        if runner.iter == self.at:
            self.kept = self.weight(runner)[0].clone()
            self.weight(runner)[0] = self.value

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.moved:
            self.damage(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not self.moved:
            self.damage(runner)


@HOOKS.register_module(force=True)
class MendStudentHook(Hook):
    """Gives the student its number back."""

    priority = 'LOW'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for hook in runner.hooks:
            if isinstance(hook, DamageStudentHook) and runner.iter == hook.at:
                hook.weight(runner)[0] = hook.kept


@HOOKS.register_module(force=True)
class LeaveOutUpdateHook(Hook):
    """Leaves an update out, as if none of its units had been picked, and nothing followed."""

    def __init__(self, step):
        self.step = step

    def before_train(self, runner):
        (hook,) = (h for h in runner.hooks if hasattr(h, 'teacher'))
        smoother, left_out = hook.updater.smoother, self.step
        update = smoother.update

        def unless_left_out(student, step, total, seed):
            if step != left_out:
                update(student, step, total, seed)

        smoother.update = unless_left_out


def ours(runner):
    (hook,) = (h for h in runner.hooks if hasattr(h, 'teacher'))
    return hook


def teachers(runner):
    """The tensors of a run's teacher."""
    return [pair.teacher for pair in ours(runner).updater.smoother.pairs.values()]


def state(runner):
    """A run's teacher and how many updates it has had."""
    return {**ours(runner).teacher.module.state_dict(), 'steps': ours(runner).updater.ensemble.step}


def finite(tensors):
    return all(t.isfinite().all() for t in tensors)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('hook', [STS, SE], ids=['STS', 'SE'])
def test_a_student_that_is_not_finite_stops_the_run_and_leaves_the_teacher(runs, kind, hook):
    damage = dict(type='DamageStudentHook', name=WEIGHT[kind], moved=kind == 'byol')
    runner = runs.build(runs.cfg_of(kind), dict(hook, check_finite=1), damage)
    # A model that teaches from the start has made one more update.
    step = AT + (kind == 'pair')
    with pytest.raises(TeacherFault) as error:
        runner.train()
    assert str(error.value).startswith(
        f'the student must be finite, but at update {step} its tensor {WEIGHT[kind]!r} is not'
    )
    assert '\n' not in str(error.value)
    assert finite(teachers(runner))
    saved = torch.load(f'{runner.work_dir}/iter_3.pth')
    assert finite(saved['state_dict'].values())
    assert not (runs.folder / '1' / 'iter_6.pth').exists()


def test_looks_that_fall_on_other_updates_find_it_before_a_checkpoint_is_written(runs):
    # The first update is looked at, then none of these few.
    damage = dict(type='DamageStudentHook', name=WEIGHT['classifier'], at=4)
    runner = runs.build(runs.cfg_of('classifier'), dict(STS, check_finite=100), damage)
    with pytest.raises(
        TeacherFault, match=r"teacher must be finite.*'backbone.conv.weight' is not"
    ):
        runner.train()
    assert finite(torch.load(f'{runner.work_dir}/iter_3.pth')['state_dict'].values())
    assert not (runs.folder / '1' / 'iter_6.pth').exists()
    assert (runs.folder / '1' / 'last_checkpoint').read_text().endswith('iter_3.pth')


def test_an_update_that_is_due_with_a_checkpoint_is_looked_at(runs):
    damage = dict(type='DamageStudentHook', name=WEIGHT['classifier'], at=5)
    runner = runs.build(runs.cfg_of('classifier'), dict(STS, check_finite=3), damage)
    with pytest.raises(TeacherFault, match=r'the student must be finite, but at update 5'):
        runner.train()
    assert finite(teachers(runner))


def test_never_looked_at_is_never_stopped(runs):
    damage = dict(type='DamageStudentHook', name=WEIGHT['classifier'])
    runner = runs.classifier(dict(STS, check_finite=0), damage)
    assert runner.iter == 6


@pytest.mark.parametrize('kind', ['classifier', 'pair'])
@pytest.mark.parametrize('hook', [STS, SE], ids=['STS', 'SE'])
def test_skip_goes_on_and_counts_as_if_nothing_had_been_picked(runs, kind, hook):
    # At the last update, or a later one might hide that it was left out.
    damage = dict(type='DamageStudentHook', name=WEIGHT[kind], at=5)
    skipping = getattr(runs, kind)(
        dict(hook, check_finite=1, non_finite='skip'), damage, dict(type='MendStudentHook')
    )
    left_out = getattr(runs, kind)(hook, dict(type='LeaveOutUpdateHook', step=5 + (kind == 'pair')))
    whole = getattr(runs, kind)(hook)
    assert skipping.message_hub.get_scalar('train/skipped_updates').current() == 1
    assert 'train/skipped_updates' not in whole.message_hub.log_scalars
    states = [state(runner) for runner in (skipping, left_out, whole)]
    assert states[0].pop('steps') == states[1].pop('steps') == states[2].pop('steps')
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_first_copy_that_is_skipped_is_made_at_the_next_update(runs):
    hook = dict(STS, check_finite=1, non_finite='skip')
    damage = dict(type='DamageStudentHook', name=WEIGHT['classifier'], at=0)
    runner = runs.classifier(hook, damage, dict(type='MendStudentHook'), max_iters=2)
    updater = ours(runner).updater
    assert updater.ensemble.step == 1
    pairs = updater.smoother.pairs.values()
    assert all(torch.equal(pair.teacher, pair.student) for pair in pairs)


def test_copies_before_the_begin_are_guarded_too(runs):
    damage = dict(type='DamageStudentHook', name=WEIGHT['classifier'], at=1)
    runner = runs.build(runs.cfg_of('classifier'), dict(STS, begin_iter=4, check_finite=1), damage)
    with pytest.raises(TeacherFault, match='at update 0'):
        runner.train()
    assert finite(teachers(runner))


@HOOKS.register_module(force=True)
class MaskHook(Hook):
    """Gives the model a mask of infinities, as a window attention has."""

    priority = 'VERY_HIGH'

    def before_run(self, runner):
        runner.model.register_buffer('mask', torch.full((2, 2), -math.inf).triu(1))


@pytest.mark.parametrize('non_finite', ['stop', 'skip'])
def test_masks_of_infinities_are_allowed(runs, non_finite):
    hook = dict(STS, check_finite=1, non_finite=non_finite)
    runner = runs.classifier(hook, dict(type='MaskHook'))
    assert runner.iter == 6
    assert 'train/skipped_updates' not in runner.message_hub.log_scalars


@pytest.mark.parametrize('hook_class', [SETMAHook, SpatialEnsembleHook])
@pytest.mark.parametrize(
    'options, said',
    [
        (dict(check_teachers=-1), 'check_teachers must be an integer >= 0, got -1'),
        (dict(check_teachers=True), 'check_teachers must be an integer >= 0, got True'),
        (dict(check_teachers=2, diff_rank_picks=True), 'diff_rank_picks=True'),
        (dict(check_finite=0.5), 'check_finite must be an integer >= 0, got 0.5'),
        (dict(check_finite=-3), 'check_finite must be an integer >= 0, got -3'),
        (dict(non_finite='ignore'), "non_finite must be one of 'stop', 'skip', got 'ignore'"),
        (dict(non_finite='skipp'), "Did you mean 'skip'?"),
        (dict(non_finite='skip'), "non_finite='skip' needs check_finite=1"),
        (dict(non_finite='skip', check_finite=0), 'check_finite=1'),
        (dict(check_finit=1), "Did you mean 'check_finite'?"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(hook_class, options, said):
    with pytest.raises(OptionError) as error:
        hook_class(**options)
    assert said in str(error.value)
    assert '\n' not in str(error.value)


def test_sharded_teachers_cannot_be_compared(runs, monkeypatch):
    monkeypatch.setattr(guard, 'is_sharded', lambda tensor: True)
    runner = runs.build(runs.cfg_of('classifier'), dict(STS, check_teachers=5))
    with pytest.raises(
        OptionError, match="check_teachers cannot compare sharded parameters \\('backbone"
    ):
        runner.train()


@pytest.mark.parametrize('kind', KINDS)
def test_teachers_are_compared_where_updates_were_made(runs, kind, monkeypatch):
    calls = []
    monkeypatch.setattr(guard, 'world_size', lambda: 2)
    monkeypatch.setattr(
        guard, 'differing', lambda tensors: calls.append([name for name, _ in tensors]) or []
    )
    runner = getattr(runs, kind)(dict(STS, check_teachers=2))
    assert len(calls) == 3
    assert calls[0] == list(ours(runner).updater.smoother.named())
    monkeypatch.setattr(guard, 'differing', lambda tensors: [('a.weight', 1), ('b', 3)])
    runner = runs.build(runs.cfg_of(kind), dict(STS, check_teachers=2))
    with pytest.raises(TeacherFault, match=r"'a.weight' of rank 1 differs from that of rank 0"):
        runner.train()
