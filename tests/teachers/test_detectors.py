# SPDX-License-Identifier: Apache-2.0
"""Semi-supervised detectors of mmdet under our hooks: burn-in, annealing, and batch norm."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS

from se_mm.engine.launch import build_runner
from se_mm.smoothing import OptionError

SemiBaseDetector = pytest.importorskip('mmdet.models').SemiBaseDetector
CONFIG = (
    Path(__file__).parents[2]
    / 'configs/softteacher/softteacher_tma_faster-rcnn-conv5_1xb8_scenes-10.py'
)
STS = dict(type='SETMAHook', keep_prob=0.5)
STOCK = dict(type='MeanTeacherHook')


@HOOKS.register_module(force=True)
class WatchDetectorHook(Hook):
    """Writes down the losses of every iteration, and student and teacher after it."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.losses, self.students, self.teachers = [], [], []
        self.model = runner.model

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(set(outputs))
        for states, model in ((self.students, 'student'), (self.teachers, 'teacher')):
            state = getattr(runner.model, model).state_dict()
            states.append({name: value.clone() for name, value in state.items()})


def train(tmp_path, *hooks, max_iters=4, model=None):
    """Train the small Soft Teacher, or another, on a few scenes; the hook that watched."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({f'model.{key}': value for key, value in (model or {}).items()})
    cfg.custom_hooks = [*hooks, dict(type='WatchDetectorHook')]
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
    for key in ('val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg.pop(f'{key}_{part}', None)
    cfg.param_scheduler = None
    loader = cfg.train_dataloader
    loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    loader.sampler.batch_size = 4
    for part in loader.dataset.datasets:
        part.num_images = 20
    # Few boxes are above 0.9 after a few iterations.
    cfg.model.semi_train_cfg.update(
        pseudo_label_initial_score_thr=0, cls_pseudo_thr=0.01, rpn_pseudo_thr=0.01
    )
    cfg.default_hooks = dict(checkpoint=None)
    cfg.work_dir, cfg.log_level, cfg.launcher = str(tmp_path), 'ERROR', 'none'
    cfg.experiment_name = tmp_path.name
    runner = build_runner(cfg)
    runner.train()
    return next(hook for hook in runner.hooks if isinstance(hook, WatchDetectorHook))


@MODELS.register_module(force=True)
class EvalTeacher(SemiBaseDetector):
    """mmdet's own base, whose teacher is in evaluation mode when it labels."""


def statistics(state):
    return {name: value for name, value in state.items() if 'running' in name}


def train_with_batch_norm(tmp_path, hook):
    return train(
        tmp_path,
        hook,
        model={
            'type': 'EvalTeacher',
            'detector.backbone.norm_groups': None,
            'detector.neck.norm_cfg': dict(type='BN', _delete_=True),
        },
    )


def test_stock_hook_leaves_a_teacher_with_the_statistics_of_no_image(tmp_path):
    """The trouble of https://github.com/open-mmlab/mmdetection/issues/10223."""
    teacher = statistics(train_with_batch_norm(tmp_path, STOCK).teachers[-1])
    assert len(teacher) > 8
    assert all(torch.equal(v, torch.full_like(v, 'var' in name)) for name, v in teacher.items())


@pytest.mark.parametrize(
    'hook, averaged',
    [(STS, True), (dict(type='SpatialEnsembleHook'), False), (dict(STS, keep_prob=0), False)],
)
def test_eval_mode_teacher_has_statistics_of_its_student_or_their_average(tmp_path, hook, averaged):
    watched = train_with_batch_norm(tmp_path, hook)
    teacher, student = (statistics(states[-1]) for states in (watched.teachers, watched.students))
    assert all(torch.equal(teacher[name], student[name]) for name in student) != averaged
    initial = [torch.equal(v, torch.full_like(v, 'var' in n)) for n, v in teacher.items()]
    # An STS teacher has not taken over all of them in so few updates.
    assert not all(initial) if averaged else not any(initial)


def test_averaged_statistics_are_half_the_teacher_s_and_half_the_student_s(tmp_path):
    # The line of a stock hook that averages buffers, with another type.
    hook = dict(STS, keep_prob=0, momentum=0.5, skip_buffer=False)
    watched = train_with_batch_norm(tmp_path, hook)
    before, after = (statistics(watched.teachers[step]) for step in (-2, -1))
    student = statistics(watched.students[-1])
    for name in student:
        torch.testing.assert_close(after[name], (before[name] + student[name]) / 2)


def test_teacher_follows_its_student_until_the_begin(tmp_path):
    watched = train(tmp_path, dict(STS, begin_iter=2))
    # Iterations 0 and 1 copy; the update after iteration 2 is the first that smooths.
    for step, equal in ((0, True), (1, True), (3, False)):
        teacher, student = watched.teachers[step], watched.students[step]
        same = all(torch.equal(teacher[name], student[name]) for name in student)
        assert same == equal, step


def test_annealed_momentum_and_interval_are_mixpl_s(tmp_path):
    momentum = dict(type='annealed', value=0.1, gamma=2)
    watched = train(
        tmp_path, dict(type='SETMAHook', keep_prob=0, momentum=momentum, interval=2), max_iters=6
    )
    name = 'roi_head.bbox_head.fc_cls.bias'
    moved = [
        not torch.equal(a[name], b[name]) for a, b in zip(watched.teachers, watched.teachers[1:])
    ]
    # The first two updates are the copy before the first iteration and the one after it.
    assert moved == [True, False, True, False, True]


def test_burn_in_is_of_labelled_images_alone(tmp_path):
    watched = train(tmp_path, STS, dict(type='BurnInHook', iters=2))
    unlabelled = [any(name.startswith('unsup') for name in losses) for losses in watched.losses]
    assert unlabelled == [False, False, True, True]
    assert all(any(n.startswith('sup') for n in losses) for losses in watched.losses)


def test_copy_of_a_model_in_its_burn_in_computes_its_own_loss(tmp_path):
    """As recalibration does; otherwise no batch reaches the copy's batch norm."""
    model = train(tmp_path, STS, dict(type='BurnInHook', iters=4)).model
    other = deepcopy(model)
    seen = []
    other.loss_by_gt_instances = lambda *_: seen.append('copy') or {}
    model.loss_by_gt_instances = lambda *_: seen.append('model') or {}
    sup = {'sup': None}
    assert other.loss(sup, sup) == model.loss(sup, sup) == {}
    assert seen == ['copy', 'model']


def test_burn_in_of_the_whole_run_never_sees_an_unlabelled_image(tmp_path):
    watched = train(tmp_path, STS, dict(type='BurnInHook', iters=4))
    assert not any(name.startswith('unsup') for losses in watched.losses for name in losses)


@pytest.mark.parametrize(
    'hook, message',
    [
        (dict(type='BurnInHook', iters=5), 'BurnInHook.iters must be <= 4, .*got 5'),
        (dict(type='BurnInHook', iters=0), 'BurnInHook.iters must be an integer >= 1, got 0'),
        (STOCK, r"remove dict\(type='MeanTeacherHook'"),
        (dict(type='SpatialEnsembleHook'), 'must have only one hook that updates the teacher'),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_iteration(tmp_path, hook, message):
    with pytest.raises(OptionError, match=message):
        train(tmp_path, STS, hook)


def test_burn_in_needs_a_semi_supervised_detector(runs, classifier_cfg):
    runner = runs.build(classifier_cfg, dict(type='BurnInHook', iters=2))
    with pytest.raises(OptionError, match=r'BurnInHook needs .*got ImageClassifier'):
        runner.train()
