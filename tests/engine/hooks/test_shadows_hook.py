# SPDX-License-Identifier: Apache-2.0
"""Many teachers beside one student: each is what it would be alone, and the student feels none."""

import pytest
import torch
from mmengine.runner import Runner

from se_mm.smoothing import OptionError, SpatialEnsemble
from tests.runs import small_classifier_cfg, small_pair_cfg

SHADOWS = dict(
    tma=dict(keep_prob=0, momentum=0.1),
    se=dict(keep_prob=0.5),
    channels=dict(keep_prob=0.5, momentum=0.3, granularity='channel', buffers='average'),
)
HOOK = dict(type='ShadowsHook', shadows=SHADOWS)


def built(folder, *hooks, **changes):
    return Runner.from_cfg(small_classifier_cfg(folder, hooks, **changes))


def trained(folder, *hooks, **changes):
    runner = built(folder, *hooks, **changes)
    runner.train()
    return runner


def hook_of(runner):
    (found,) = [hook for hook in runner.hooks if type(hook).__name__ == 'ShadowsHook']
    return found


def assert_equal(state, expected):
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name


def test_the_student_is_that_of_a_run_without_them(tmp_path):
    alone = trained(tmp_path / 'alone', train_cfg=dict(by_epoch=False, max_iters=6, val_interval=2))
    beside = trained(
        tmp_path / 'beside', HOOK, train_cfg=dict(by_epoch=False, max_iters=6, val_interval=2)
    )
    assert_equal(beside.model.state_dict(), alone.model.state_dict())


def test_each_teacher_is_that_of_a_hook_of_its_own(tmp_path):
    shadows = hook_of(trained(tmp_path / 'many', HOOK)).teachers
    own = dict(type='SETMAHook', kind='shadow', keep_prob=0.5, momentum=0.3)
    own |= dict(granularity='channel', buffers='average')
    runner = trained(tmp_path / 'one', own)
    (hook,) = [hook for hook in runner.hooks if type(hook).__name__ == 'SETMAHook']
    assert_equal(shadows['channels'].module.state_dict(), hook.teacher.module.state_dict())


def test_metrics_are_those_of_the_teachers_by_name(tmp_path):
    runner = trained(tmp_path, HOOK)
    scalars = runner.message_hub.log_scalars
    teachers = hook_of(runner).teachers
    for name, teacher in teachers.items():
        runner.model.load_state_dict(teacher.module.state_dict())
        hook_of(runner).teachers = {}
        expected = runner.val_loop.run()['accuracy/top1']
        assert scalars[f'val/{name}/accuracy/top1'].current() == pytest.approx(expected)


def test_a_resumed_run_is_one_that_was_never_stopped(tmp_path):
    whole = hook_of(trained(tmp_path / 'whole', HOOK))
    trained(tmp_path / 'part', HOOK, max_iters=3)
    resumed = built(tmp_path / 'part', HOOK, resume=True)
    resumed.train()
    for name, teacher in hook_of(resumed).teachers.items():
        assert teacher.step == whole.teachers[name].step == 6
        assert_equal(teacher.module.state_dict(), whole.teachers[name].module.state_dict())


def test_a_shadow_that_the_checkpoint_lacks_starts_from_the_student(tmp_path, caplog):
    trained(tmp_path, HOOK, max_iters=3)
    more = dict(HOOK, shadows=dict(SHADOWS, new=dict(keep_prob=0.9)))
    runner = built(tmp_path, more, resume=True)
    runner.train()
    assert hook_of(runner).teachers['new'].step == 3
    assert hook_of(runner).teachers['se'].step == 6


def test_teachers_of_a_checkpoint_are_tested(tmp_path):
    scalars = trained(tmp_path, HOOK).message_hub.log_scalars
    runner = built(tmp_path, HOOK, load_from=str(tmp_path / 'iter_6.pth'))
    metrics = runner.test()
    for name in SHADOWS:
        key = f'{name}/accuracy/top1'
        assert metrics[key] == pytest.approx(scalars[f'val/{key}'].current())


def test_a_recalibrated_teacher_is_that_of_a_hook_of_its_own(tmp_path):
    options = dict(keep_prob=0.5, momentum=0.3, buffers='recalibrate')
    many = dict(type='ShadowsHook', shadows=dict(a=options), recalibrate_batches=3)
    scalars = trained(tmp_path / 'many', many).message_hub.log_scalars
    one = dict(type='SETMAHook', kind='shadow', recalibrate_batches=3, **options)
    expected = trained(tmp_path / 'one', one).message_hub.log_scalars
    key = 'val/a/accuracy/top1'
    assert scalars[key].current() == expected['val/accuracy/top1'].current()


def test_recalibrated_teachers_need_training_batches(tmp_path):
    shadows = dict(a=dict(buffers='recalibrate'))
    runner = built(
        tmp_path,
        dict(type='ShadowsHook', shadows=shadows),
        train_cfg=None,
        train_dataloader=None,
        optim_wrapper=None,
    )
    with pytest.raises(OptionError, match="buffers='recalibrate' needs train_dataloader"):
        runner.test()


def test_teachers_are_updated_when_the_optimizer_makes_a_step(tmp_path):
    optim = dict(optimizer=dict(type='SGD', lr=0.5), accumulative_counts=3)
    runner = trained(tmp_path, HOOK, optim_wrapper=optim)
    assert hook_of(runner).teachers['se'].step == 2


@pytest.mark.parametrize(
    'shadows, said',
    [
        ({}, 'shadows must have a name and options for each'),
        ([dict(keep_prob=0.5)], 'shadows must have a name and options for each'),
        ({'a/b': {}}, 'must be a word without "/"'),
        ({'a': 0.5}, 'shadows.a must be a dict of options, got 0.5'),
        ({'a': dict(kep_prob=0.5)}, 'kep_prob'),
        ({'a': dict(keep_prob=1)}, 'keep_prob must be'),
        ({'a': dict(buffers='recalibrated')}, 'buffers must be one of'),
    ],
)
def test_bad_shadows_are_refused_in_one_line(shadows, said, tmp_path):
    with pytest.raises(OptionError) as error:
        built(tmp_path, dict(type='ShadowsHook', shadows=shadows)).train()
    assert said in str(error.value) and '\n' not in str(error.value)


def test_a_loop_that_asks_the_model_for_its_networks_is_refused(tmp_path):
    runner = Runner.from_cfg(small_pair_cfg(tmp_path, [dict(type='SETMAHook'), HOOK]))
    with pytest.raises(
        OptionError, match='batch by batch, such as ValLoop, got TeacherStudentLoop'
    ):
        runner.train()


def test_the_class_beneath_is_the_public_one(tmp_path):
    teachers = hook_of(trained(tmp_path, HOOK)).teachers
    assert all(type(teacher) is SpatialEnsemble for teacher in teachers.values())
