# SPDX-License-Identifier: Apache-2.0
"""The promises of both hooks, for a teacher inside the model and for one beside it."""

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from tests.hook_table import HOOK_TABLE, SE, STS, TMA, ids

KINDS = ['byol', 'classifier']


def same_tensors(left, right):
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


def teacher_state(runner):
    """The tensors of a run's teacher, and how many updates it has had."""
    ensemble = updater_of(runner).ensemble
    steps = torch.tensor(ensemble.step)
    return {**ensemble.module.state_dict(), 'steps': steps}


def updater_of(runner):
    (hook,) = (hook for hook in runner.hooks if hasattr(hook, 'updater'))
    return hook.updater


@HOOKS.register_module(force=True)
class WatchTeacherHook(Hook):
    """Keeps what the student was before, and what both were after each iteration."""

    priority = 'LOW'

    def __init__(self):
        self.starts, self.teachers, self.students = [], [], []

    def pairs(self, runner):
        return updater_of(runner).smoother.pairs.values()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.starts.append({p.name: p.student.detach().clone() for p in self.pairs(runner)})

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        pairs = self.pairs(runner)
        self.teachers.append({p.name: p.teacher.detach().clone() for p in pairs})
        self.students.append({p.name: p.student.detach().clone() for p in pairs})


def watched(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, WatchTeacherHook))


@HOOKS.register_module(force=True)
class RecordRandomStateHook(Hook):
    """Keeps the state of the global random generators after each iteration."""

    def __init__(self):
        self.states = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        numpy_state = np.random.get_state()
        self.states.append(
            (random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist())
        )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('hook', HOOK_TABLE, ids=ids)
def test_promise_1_the_same_run_makes_the_same_teacher(runs, kind, hook):
    first, second = (getattr(runs, kind)(hook) for _ in range(2))
    assert same_tensors(first.model.state_dict(), second.model.state_dict())
    assert same_tensors(teacher_state(first), teacher_state(second))


def test_promise_1_another_seed_makes_other_picks_and_leaves_the_data_alone(runs):
    # With a shadow the student does not feel its teacher.
    first, second = (runs.classifier(dict(STS, seed=seed)) for seed in (1, 2))
    assert same_tensors(first.model.state_dict(), second.model.state_dict())
    assert not same_tensors(teacher_state(first), teacher_state(second))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('hook', [STS, dict(SE, granularity='element')], ids=ids)
def test_promise_1_global_random_generators_are_left_alone(runs, kind, hook):
    def states(*hooks):
        runner = getattr(runs, kind)(*hooks, dict(type='RecordRandomStateHook'))
        return next(h for h in runner.hooks if isinstance(h, RecordRandomStateHook)).states

    assert states(hook) == states()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('hook', HOOK_TABLE, ids=ids)
def test_promise_2_first_update_copies_everything(runs, kind, hook):
    hook = dict(hook, buffers='skip', overrides={'conv': 'skip'})
    runner = getattr(runs, kind)(hook, dict(type='WatchTeacherHook'), max_iters=2)
    watch = watched(runner)
    if kind == 'byol':
        # The model updates before its student's step: after the first iteration the teacher is
        # the student as it was built.
        for name, value in watch.teachers[0].items():
            if 'running' not in name and 'tracked' not in name:  # These move in its own forward.
                assert torch.equal(value, watch.starts[0][name]), name
    else:
        assert same_tensors(watch.teachers[0], watch.students[0])
    assert not same_tensors(watch.teachers[1], watch.students[1])


@pytest.mark.parametrize('kind', KINDS)
def test_promise_2_first_update_copies_after_weights_are_loaded(runs, kind):
    trained = getattr(runs, kind)(STS, max_iters=3)
    checkpoint = f'{trained.work_dir}/iter_3.pth'
    # A teacher that is in the checkpoint would go on.
    hook = dict(STS, initial_teacher='student')
    runner = getattr(runs, kind)(
        hook, dict(type='WatchTeacherHook'), max_iters=1, load_from=checkpoint
    )
    (teacher,), (student,) = watched(runner).teachers, watched(runner).students
    loaded = torch.load(checkpoint)['state_dict']
    for name, value in teacher.items():
        if 'running' in name or 'tracked' in name:
            continue
        expected = loaded[name] if kind == 'byol' else student[name]
        assert torch.equal(value, expected), name


@pytest.mark.parametrize('hook', [STS, SE], ids=ids)
def test_promise_3_checkpoint_of_a_teacher_inside_has_the_stock_keys(runs, hook):
    def saved(*hooks):
        return torch.load(f'{runs.byol(*hooks).work_dir}/iter_6.pth')

    stock, ours = saved(), saved(hook)
    assert list(stock['state_dict']) == list(ours['state_dict'])
    assert set(ours) - set(stock) == {'se_mm'}
    assert ours['se_mm']['seed'] == 0
    assert ours['se_mm']['options']['keep_prob'] == 0.7


@pytest.mark.parametrize('hook', [STS, SE], ids=ids)
def test_promise_3_checkpoint_of_a_shadow_is_that_of_emahook(runs, hook):
    def saved(*hooks):
        return torch.load(f'{runs.classifier(*hooks).work_dir}/iter_6.pth')

    stock, ours = saved(dict(type='EMAHook')), saved(hook)
    assert list(stock['state_dict']) == list(ours['state_dict'])
    assert list(stock['ema_state_dict']) == list(ours['ema_state_dict'])
    assert set(ours) - set(stock) == {'se_mm'}
    # Shadows do not act on the student, so both runs have the same one.
    for name, value in stock['ema_state_dict'].items():
        assert torch.equal(value, ours['ema_state_dict'][name]), name


@pytest.mark.parametrize('kind, stock', [('byol', []), ('classifier', [dict(type='EMAHook')])])
def test_promise_3_smoothing_is_switched_in_mid_run_both_ways(runs, kind, stock):
    for before, after in ((stock, [STS]), ([STS], stock), ([SE], [STS])):
        first = getattr(runs, kind)(*before, max_iters=3)
        second = getattr(runs, kind)(
            *after, load_from=f'{first.work_dir}/iter_3.pth', resume=True, max_iters=6
        )
        assert second.iter == 6
        assert len(runs.losses(second)) == 6  # The log's history goes on too.
        saved = torch.load(f'{second.work_dir}/iter_6.pth')
        steps = saved['state_dict' if kind == 'byol' else 'ema_state_dict']
        assert steps['target_net.steps' if kind == 'byol' else 'steps'] == 6


@pytest.mark.parametrize('kind', KINDS)
def test_promise_3_resume_with_other_options_says_so(runs, kind, monkeypatch):
    first = getattr(runs, kind)(STS, max_iters=3)
    changed = runs.build(
        runs.cfg_of(kind),
        dict(STS, keep_prob=0.5),
        load_from=f'{first.work_dir}/iter_3.pth',
        resume=True,
        max_iters=4,
    )
    said = []
    monkeypatch.setattr(changed.logger, 'warning', lambda text, *a, **k: said.append(text))
    changed.train()
    (line,) = (text for text in said if 'SETMAHook' in text)
    assert 'keep_prob=0.5 (was 0.7)' in line
    assert '\n' not in line


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('hook', HOOK_TABLE, ids=ids)
def test_exact_resume_ends_with_the_tensors_of_the_uninterrupted_run(runs, kind, hook):
    # Epochs of 6 iterations: a loader without workers shuffles by the epoch, so a resume at the end
    # of one sees the same data.
    epochs = dict(
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=3),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=True)),
    )
    whole = getattr(runs, kind)(hook, **epochs)
    resumed = getattr(runs, kind)(
        hook, load_from=f'{whole.work_dir}/epoch_1.pth', resume=True, **epochs
    )
    assert resumed.iter == whole.iter == 18
    assert same_tensors(whole.model.state_dict(), resumed.model.state_dict())
    assert same_tensors(teacher_state(whole), teacher_state(resumed))


def test_exact_resume_without_a_seed_in_the_config_goes_on_with_the_same_picks(runs):
    random_seed = dict(randomness=dict(seed=None))
    whole = runs.classifier(STS, **random_seed)
    first = torch.load(f'{whole.work_dir}/iter_3.pth')['se_mm']
    resumed = runs.classifier(
        STS, load_from=f'{whole.work_dir}/iter_3.pth', resume=True, **random_seed
    )
    second = torch.load(f'{resumed.work_dir}/iter_6.pth')['se_mm']
    assert first['seed'] == second['seed']


@pytest.mark.parametrize('kind', KINDS)
def test_promise_5_one_update_per_optimizer_step_under_accumulation(runs, kind):
    accumulate = dict(optim_wrapper=dict(accumulative_counts=3), max_iters=12)
    runner = getattr(runs, kind)(
        dict(SE, keep_prob=0.0), dict(type='WatchTeacherHook'), **accumulate
    )
    assert int(teacher_state(runner)['steps']) == 4
    watch = watched(runner)
    weight = next(
        name
        for name in watch.teachers[0]
        if name.endswith('conv1.weight') or name.endswith('conv.weight')
    )
    changes = [
        i
        for i in range(1, 12)
        if not torch.equal(watch.teachers[i][weight], watch.teachers[i - 1][weight])
    ]
    # Steps are made at the ends of iterations 2, 5, 8, 11; the model's own update comes a forward
    # later.
    assert changes == ([3, 6, 9] if kind == 'byol' else [2, 5, 8, 11])


@pytest.mark.parametrize('kind', KINDS)
def test_promise_5_every_iter_updates_at_every_iteration(runs, kind):
    runner = getattr(runs, kind)(
        dict(SE, every_iter=True), optim_wrapper=dict(accumulative_counts=3), max_iters=12
    )
    assert int(teacher_state(runner)['steps']) == 12


def test_schedules_reach_their_end_under_accumulation(runs):
    hook = dict(SE, keep_prob=dict(type='linear', start=0.0, end=0.8))
    runner = runs.byol(hook, optim_wrapper=dict(accumulative_counts=3), max_iters=12)
    ensemble = updater_of(runner).ensemble
    assert ensemble.total == 4
    assert ensemble.settings.keep_prob(4, ensemble.total) == pytest.approx(0.8)


def test_promise_8_keep_prob_zero_is_stock_cosine_ema(runs):
    # Few iterations: the student learns from the teacher, and so multiplies what rounding differs.
    stock, ours = runs.byol(max_iters=8), runs.byol(TMA, max_iters=8)
    left, right = stock.model.target_net.state_dict(), ours.model.target_net.state_dict()
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=1e-4, atol=1e-5)


def test_promise_8_keep_prob_zero_is_stock_emahook(runs):
    stock = runs.classifier(dict(type='EMAHook', momentum=0.1))
    ours = runs.classifier(dict(TMA, momentum=0.1))
    left = torch.load(f'{stock.work_dir}/iter_6.pth')['state_dict']
    right = torch.load(f'{ours.work_dir}/iter_6.pth')['state_dict']
    for name, value in left.items():
        torch.testing.assert_close(right[name], value)


def test_adding_the_hook_leaves_the_losses_of_the_stock_config(runs):
    def agree(seed):
        stock, ours = (
            runs.losses(runs.byol(*hook, max_iters=20, randomness=dict(seed=seed)))
            for hook in ((), (TMA,))
        )
        assert len(ours) == 20
        # To what the log shows of them; the averages themselves are equal to rounding.
        return ours == pytest.approx(stock, abs=1e-4)

    # What rounding carries over the kink of a ReLU makes a leap, but not with every seed.
    assert any(agree(seed) for seed in (3, 0))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('begin', [dict(begin_iter=7), dict(begin_epoch=2)], ids=ids)
def test_before_the_begin_the_teacher_is_the_student(runs, kind, begin):
    runner = getattr(runs, kind)(
        dict(STS, **begin),
        dict(type='WatchTeacherHook'),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
    )
    watch = watched(runner)
    parameter = next(name for name in watch.teachers[0] if name.endswith('weight'))
    # A teacher that the model updates is one optimizer step behind at the end of an iteration.
    behind = 1 if kind == 'byol' else 0
    equal = [
        torch.equal(watch.teachers[i + behind][parameter], watch.students[i][parameter])
        for i in range(12 - behind)
    ]
    # The first update copies too.
    first = 6 if 'begin_iter' in begin or kind == 'classifier' else 5
    assert equal[: first + 1] == [True] * (first + 1)
    assert not any(equal[first + 2 :])


def test_interval_skips_updates(runs):
    runner = runs.classifier(
        dict(TMA, momentum=0.5, interval=3), dict(type='WatchTeacherHook'), max_iters=8
    )
    weights = [teacher['backbone.conv.weight'] for teacher in watched(runner).teachers]
    changes = [i for i in range(1, 8) if not torch.equal(weights[i], weights[i - 1])]
    assert changes == [3, 6]


def test_shadow_is_evaluated_as_asked(runs):
    hook = dict(type='SETMAHook', keep_prob=0.0, momentum=0.01)
    plain = runs.classifier(max_iters=40)
    result = {
        on: runs.classifier(dict(hook, evaluate_on=on), max_iters=40).message_hub
        for on in ('teacher', 'student', 'both')
    }

    def top1(hub, name='accuracy/top1'):
        return hub.get_scalar(f'val/{name}').current()

    student = top1(plain.message_hub)
    assert top1(result['student']) == student
    assert top1(result['both'], 'accuracy/top1_origin') == student
    assert top1(result['both']) == top1(result['teacher']) != student


def test_shadow_gives_the_student_back_after_validation(runs):
    plain = runs.classifier()
    ours = runs.classifier(dict(STS, momentum=0.01))
    assert same_tensors(plain.model.state_dict(), ours.model.state_dict())


@pytest.mark.parametrize('on', ['teacher', 'student'])
def test_shadow_is_tested_from_its_checkpoint_as_asked(runs, classifier_cfg, on):
    trained = runs.classifier(dict(type='SETMAHook', keep_prob=0.0, momentum=0.01), max_iters=12)
    saved = torch.load(f'{trained.work_dir}/iter_12.pth')
    tester = runs.build(
        classifier_cfg,
        dict(STS, evaluate_on=on),
        load_from=f'{trained.work_dir}/iter_12.pth',
    )
    seen = {}

    @HOOKS.register_module(force=True)
    class SeeTestedWeightsHook(Hook):
        priority = 'LOW'

        def before_test_iter(self, runner, batch_idx, data_batch=None):
            seen['weight'] = runner.model.backbone.conv.weight.clone()

    tester.register_hook(SeeTestedWeightsHook())
    tester.test()
    expected = (
        saved['state_dict']['backbone.conv.weight']
        if on == 'teacher'
        else saved['ema_state_dict']['module.backbone.conv.weight']
    )
    assert torch.equal(seen['weight'], expected)


def test_runner_may_train_and_then_test(runs):
    runner = runs.classifier(dict(STS, momentum=0.5))
    before = {name: value.clone() for name, value in teacher_state(runner).items()}
    metrics = runner.test()
    assert 'accuracy/top1' in metrics
    assert same_tensors(teacher_state(runner), before)


def test_promise_3_our_checkpoint_loads_into_the_stock_model(runs, byol_cfg, tmp_path):
    ours = runs.byol(STS)
    saved = torch.load(f'{ours.work_dir}/iter_6.pth')['state_dict']
    stock = Runner.from_cfg(byol_cfg(tmp_path / 'stock')).model
    result = stock.load_state_dict(saved, strict=True)
    assert not result.missing_keys and not result.unexpected_keys


def test_teacher_in_bfloat16_is_averaged_in_float32_and_resumes_exactly(runs):
    model = dict(model=dict(backbone=dict(type='BFloat16Backbone')))
    hook = dict(type='SETMAHook', keep_prob=0.3, momentum=0.001, buffers='copy')
    whole = runs.classifier(hook, **model)
    first, last = (torch.load(f'{whole.work_dir}/iter_{i}.pth') for i in (3, 6))
    averages = last['se_mm']['fp32']
    assert set(averages) == {f'backbone.{name}' for name in whole.model.backbone.state_dict()} - {
        f'backbone.norm.{name}' for name in ('running_mean', 'running_var', 'num_batches_tracked')
    }
    for name, average in averages.items():
        teacher = last['state_dict'][name]
        assert teacher.dtype == torch.bfloat16 and average.dtype == torch.float32
        assert torch.equal(average.bfloat16(), teacher)
    # Steps of a thousandth: in bfloat16, next to none of them would be left.
    name = 'backbone.conv.weight'
    assert (averages[name] != first['se_mm']['fp32'][name]).any()
    resumed = runs.classifier(hook, load_from=f'{whole.work_dir}/iter_3.pth', resume=True, **model)
    again = torch.load(f'{resumed.work_dir}/iter_6.pth')
    assert same_tensors(last['state_dict'], again['state_dict'])
    assert same_tensors(averages, again['se_mm']['fp32'])
