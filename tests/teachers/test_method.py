# SPDX-License-Identifier: Apache-2.0
"""A teacher that its model moves by a method of its own."""

import copy

import pytest
import torch
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.registry import MODELS
from se_mm.engine.teachers import find_teacher

from se_mm.smoothing import OptionError

STS = dict(type='SETMAHook', keep_prob=0.5, momentum=0.1)


@MODELS.register_module(force=True)
class OwnUpdate(BaseModel):
    """A network that is taught by a plain copy of it, which it moves in its forward."""

    def __init__(self, copies=1, **kwargs):
        super().__init__()
        self.backbone = torch.nn.Conv2d(3, 4, 3)
        if copies > 1:
            self.second = copy.deepcopy(self.backbone)
        self.teacher = torch.nn.Conv2d(3, 4, 3)
        self.moved = 0

    def momentum_update(self):
        self.moved += 1

    def forward(self, inputs, data_samples=None, mode='tensor'):
        images = torch.stack(inputs)
        with torch.no_grad():
            target = self.teacher(images)
            self.momentum_update()
        return {'loss': (self.backbone(images) - target - 1).square().mean()}


def build(runs, classifier_cfg, hook, **model):
    """A run of such a model, not started."""

    def cfg_of(*args, **kwargs):
        cfg = classifier_cfg(*args, **kwargs)
        cfg.model = dict(type='OwnUpdate', **model)
        for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
            cfg.pop(key)
            cfg.pop(key.replace('val', 'test', 1))
        cfg.train_cfg.pop('val_interval')
        return cfg

    return runs.build(cfg_of, hook, max_iters=4)


def test_method_of_the_model_asks_for_the_update(runs, classifier_cfg):
    runner = build(runs, classifier_cfg, STS)
    runner.train()
    model = runner.model
    assert model.moved == 0
    (hook,) = [h for h in runner.hooks if type(h).__name__ == 'SETMAHook']
    assert str(hook.teacher) == 'teacher (method) follows backbone'
    # One before the first iteration, since the model is taught from the start; then one for each.
    assert hook._smoothed.step == 5
    assert not torch.equal(model.teacher.weight, model.backbone.weight)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_names_in_the_checkpoint_are_the_model_s(runs, classifier_cfg):
    runner = build(runs, classifier_cfg, STS)
    names = list(OwnUpdate().state_dict())
    runner.train()
    assert list(runner.model.state_dict()) == names


def test_momentum_that_is_not_known_must_be_given(runs, classifier_cfg):
    runner = build(runs, classifier_cfg, dict(STS, momentum=None))
    with pytest.raises(OptionError, match='momentum=None cannot be inherited: OwnUpdate moves'):
        runner.train()


def test_student_that_is_not_the_only_one_alike_must_be_named(runs, classifier_cfg):
    runner = build(runs, classifier_cfg, STS, copies=2)
    with pytest.raises(OptionError, match="student=None is not enough for the teacher 'teacher'"):
        runner.train()
    runner = build(runs, classifier_cfg, dict(STS, student='second'), copies=2)
    runner.train()


def test_two_possible_teachers_must_be_told_apart():
    model = OwnUpdate()
    model.averaged = ExponentialMovingAverage(model.backbone)
    with pytest.raises(OptionError, match='ambiguous: OwnUpdate has several'):
        find_teacher(model)
    assert find_teacher(model, 'averaged', 'backbone').kind == 'averaged module'
    assert find_teacher(model, 'teacher').kind == 'method'


def test_update_of_several_teachers_is_refused_and_not_passed_over():
    class Several(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.net_m = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def _momentum_update(self):
            pass

    with pytest.raises(OptionError, match=r'Several moves a teacher of its own by _momentum_upd'):
        find_teacher(Several())


def test_teacher_of_a_distillation_stays_and_that_is_said():
    model = OwnUpdate()
    model.teacher.requires_grad_(False)
    type(model).momentum_update, kept = None, type(model).momentum_update
    try:
        teacher = find_teacher(model)
    finally:
        type(model).momentum_update = kept
    assert teacher.kind == 'shadow'
    assert 'has a teacher of its own, which stays as it is' in teacher.caution
