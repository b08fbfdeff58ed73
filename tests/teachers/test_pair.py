# SPDX-License-Identifier: Apache-2.0
"""A teacher beside its student in the model, under both hooks, and against mmdet's own hook."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from se_mm.smoothing import OptionError
from se_mm.teachers import Pair, find_teacher
from tests.hook_table import HOOK_TABLE, SE, STS, TMA, ids

COPY = dict(type='SpatialEnsembleHook', keep_prob=0)
STOCK = dict(type='mmdet.MeanTeacherHook', momentum=0.05, skip_buffer=False)
HOOKS_OF_PAIRS = [*HOOK_TABLE, dict(STS, begin_iter=2)]


def same_tensors(left, right):
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


def saved(runner, step=6):
    return torch.load(f'{runner.work_dir}/iter_{step}.pth')


@HOOKS.register_module(force=True)
class WatchPairHook(Hook):
    """Keeps teacher and student as each iteration begins, and as the last one ends."""

    priority = 'LOW'

    def __init__(self):
        self.teachers, self.students = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for kept, network in (
            (self.teachers, runner.model.teacher),
            (self.students, runner.model.student),
        ):
            kept.append({k: v.clone() for k, v in network.state_dict().items()})

    def after_train(self, runner):
        self.before_train_iter(runner, 0)


def watched(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, WatchPairHook))


def test_pair_is_found_and_named(runs, pair_cfg):
    teacher = find_teacher(runs.build(pair_cfg, STS).model)
    assert isinstance(teacher, Pair)
    assert str(teacher) == 'teacher (pair) follows student'


def test_layers_of_teacher_and_student_are_counterparts(runs, pair_cfg):
    model = runs.build(pair_cfg, STS).model
    teacher = find_teacher(model)
    assert teacher.find('student', 'student.backbone') is model.student.backbone
    assert teacher.find('teacher', 'student.backbone') is model.teacher.backbone
    with pytest.raises(
        OptionError, match=r"layer must be in the student of 'teacher'.*got 'accept'"
    ):
        teacher.find('teacher', 'accept')


@pytest.mark.parametrize('hook', HOOKS_OF_PAIRS, ids=ids)
def test_teacher_is_the_student_before_the_first_iteration_and_follows_it_then(runs, hook):
    watch = watched(runs.pair(hook, dict(type='WatchPairHook')))
    assert same_tensors(watch.teachers[0], watch.students[0])
    assert not same_tensors(watch.teachers[-1], watch.students[-1])
    assert not same_tensors(watch.teachers[-1], watch.teachers[0])


def test_teacher_is_the_student_whose_weights_were_loaded(runs, tmp_path):
    trained = saved(runs.pair(STS))['state_dict']
    path = tmp_path / 'student.pth'
    torch.save({'state_dict': {k: v for k, v in trained.items() if k.startswith('student')}}, path)
    watch = watched(runs.pair(STS, dict(type='WatchPairHook'), load_from=str(path), max_iters=2))
    weight = 'backbone.conv.weight'
    assert torch.equal(watch.teachers[0][weight], trained[f'student.{weight}'])


@pytest.mark.parametrize('momentum', [None, 0.2])
def test_keep_prob_zero_is_mmdets_mean_teacher(runs, momentum):
    pytest.importorskip('mmdet')
    # What the student learns does not depend on its teacher here.
    model = dict(model=dict(labeller='student'))
    given = {} if momentum is None else dict(momentum=momentum)
    ours = saved(runs.pair(dict(TMA, **given), **model))['state_dict']
    stock = dict(type='mmdet.MeanTeacherHook', momentum=momentum or 0.001)
    theirs = saved(runs.pair(stock, **model))['state_dict']
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        if name.endswith(('weight', 'bias')):
            torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7)


def test_copying_hook_makes_the_teacher_the_student(runs):
    state = saved(runs.pair(COPY))['state_dict']
    for name, value in state.items():
        if name.startswith('student.'):
            assert torch.equal(value, state[name.replace('student', 'teacher', 1)]), name


@pytest.mark.parametrize('hook', HOOKS_OF_PAIRS, ids=ids)
def test_exact_resume_ends_with_the_tensors_of_the_uninterrupted_run(runs, hook):
    whole = runs.pair(hook)
    resumed = runs.pair(hook, load_from=f'{whole.work_dir}/iter_3.pth', resume=True)
    assert resumed.iter == 6
    assert same_tensors(saved(whole)['state_dict'], saved(resumed)['state_dict'])
    assert saved(whole)['se_mm']['step'] == saved(resumed)['se_mm']['step']


@pytest.mark.parametrize('accumulated', [1, 2])
def test_exact_resume_in_the_middle_of_an_accumulation(runs, accumulated):
    options = dict(optim_wrapper=dict(accumulative_counts=accumulated), max_iters=8)
    options['default_hooks'] = dict(
        checkpoint=dict(type='CheckpointHook', interval=4, by_epoch=False)
    )
    whole = runs.pair(STS, **options)
    resumed = runs.pair(STS, load_from=f'{whole.work_dir}/iter_4.pth', resume=True, **options)
    assert same_tensors(saved(whole, 8)['state_dict'], saved(resumed, 8)['state_dict'])
    # One before the first iteration, and one for each step of the optimizer.
    assert saved(whole, 8)['se_mm']['step'] == 1 + 8 // accumulated


def test_smoothing_is_switched_in_mid_run_both_ways(runs):
    pytest.importorskip('mmdet')
    for before, after in ((STOCK, STS), (STS, STOCK), (SE, STS)):
        first = runs.pair(before, max_iters=3)
        teacher = saved(first, 3)['state_dict']
        second = runs.pair(
            after,
            dict(type='WatchPairHook'),
            load_from=f'{first.work_dir}/iter_3.pth',
            resume=True,
        )
        assert second.iter == 6
        # Nothing is copied on the way: the teacher is a history.
        start = watched(second).teachers[0]
        assert all(torch.equal(start[k], teacher[f'teacher.{k}']) for k in start)
        assert list(saved(second)['state_dict']) == list(teacher)


def test_hook_that_is_replaced_must_go(runs, pair_cfg):
    pytest.importorskip('mmdet')
    runner = runs.build(pair_cfg, STS, STOCK)
    with pytest.raises(
        OptionError,
        match=r"one hook that updates the teacher, .* remove dict\(type='MeanTeacherHook'",
    ):
        runner.train()


@pytest.mark.parametrize(
    'option, message',
    [
        (dict(student=['student']), r"student must be one name .*, got \['student'\]"),
        (
            dict(student='studnt'),
            "student must be the dotted name .*, got 'studnt'. Did you mean 'student'",
        ),
        (dict(student='accept'), "the student must have a tensor 'accept"),
        (
            dict(teacher='techer'),
            "teacher must be the dotted name .*, got 'techer'. Did you mean 'teacher'",
        ),
        (dict(evaluate_on='both'), "evaluate_on needs a copy of the model, kind='shadow'"),
    ],
    ids=ids,
)
def test_option_that_does_not_fit_is_refused_before_the_first_iteration(
    runs, pair_cfg, option, message
):
    runner = runs.build(pair_cfg, dict(STS, **option))
    with pytest.raises(OptionError, match=message) as error:
        runner.train()
    assert '\n' not in str(error.value)
    assert runner.iter == 0


@pytest.mark.parametrize('labeller, said', [('student', 1), ('teacher', 0)])
def test_student_that_labels_itself_is_pointed_out(runs, pair_cfg, monkeypatch, labeller, said):
    runner = runs.build(pair_cfg, SE, model=dict(labeller=labeller), max_iters=2)
    warnings = []
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *a, **k: warnings.append(text))
    runner.train()
    lines = [text for text in warnings if 'changes only what is evaluated' in text]
    assert len(lines) == said
