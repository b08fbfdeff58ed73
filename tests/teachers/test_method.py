# SPDX-License-Identifier: Apache-2.0
"""A teacher that its model moves by a method of its own."""

import copy

import pytest
import torch
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.registry import MODELS

from se_mm.smoothing import OptionError, Settings
from se_mm.teachers import find_teacher

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
    assert hook.updater.ensemble.step == 5
    assert not torch.equal(model.teacher.weight, model.backbone.weight)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_names_in_the_checkpoint_are_the_model_s(runs, classifier_cfg):
    runner = build(runs, classifier_cfg, STS)
    names = list(OwnUpdate().state_dict())
    runner.train()
    assert list(runner.model.state_dict()) == names


def test_momentum_that_is_not_known_must_be_given(runs, classifier_cfg):
    runner = build(runs, classifier_cfg, dict(STS, momentum=None))
    with pytest.raises(
        OptionError,
        match='momentum must be set, since OwnUpdate updates its teacher by its own method',
    ):
        runner.train()


def test_student_that_is_not_the_only_one_alike_must_be_named(runs, classifier_cfg):
    runner = build(runs, classifier_cfg, STS, copies=2)
    with pytest.raises(
        OptionError,
        match="student must be set for the teacher 'teacher': 'backbone', 'second' in OwnUpdate ",
    ):
        runner.train()
    runner = build(runs, classifier_cfg, dict(STS, student='second'), copies=2)
    runner.train()


def test_two_possible_teachers_must_be_told_apart():
    model = OwnUpdate()
    model.averaged = ExponentialMovingAverage(model.backbone)
    with pytest.raises(OptionError, match="OwnUpdate has several: 'averaged', 'teacher'"):
        find_teacher(model)
    named = find_teacher(model, Settings(teacher='averaged', student='backbone'))
    assert (named.kind, named.path) == ('averaged', 'averaged')
    assert find_teacher(model, Settings(teacher='teacher')).kind == 'method'
    assert find_teacher(model, Settings(kind='averaged', student='backbone')).path == 'averaged'
    assert find_teacher(model, Settings(kind='method')).path == 'teacher'


def test_averaged_model_that_a_method_asks_for_the_update_is_an_averaged_one():
    class Asks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(2, 2)
            self.teacher = ExponentialMovingAverage(self.net)

        def momentum_update(self):
            self.teacher.update_parameters(self.net)

    assert str(find_teacher(Asks())) == 'teacher (averaged) follows net'


class Several(torch.nn.Module):
    """Two networks and their averages, which one method moves."""

    def __init__(self):
        super().__init__()
        self.net, self.net_m = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.text, self.text_m = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

    def _momentum_update(self):
        pass


def test_model_that_moves_several_teachers_is_not_passed_over_in_silence():
    teacher = find_teacher(Several())
    assert teacher.kind == 'shadow'
    (caution,) = teacher.cautions
    assert 'Several may update a teacher by _momentum_update(), which this hook leaves' in caution


def test_one_of_several_teachers_can_be_named_with_its_method():
    settings = Settings(teacher='net_m', student='net', update_method='_momentum_update')
    teacher = find_teacher(Several(), settings)
    assert (teacher.kind, str(teacher)) == ('method', 'net_m (method) follows net')


def test_teacher_of_a_distillation_stays_and_that_is_said():
    model = OwnUpdate()
    model.teacher.requires_grad_(False)
    type(model).momentum_update, kept = None, type(model).momentum_update
    try:
        teacher = find_teacher(model)
        (caution,) = teacher.cautions
    finally:
        type(model).momentum_update = kept
    assert teacher.kind == 'shadow'
    assert "has a teacher of its own, 'teacher', which this hook leaves unchanged" in caution


def test_method_that_the_model_lacks_is_one_line():
    with pytest.raises(OptionError, match=r"update_method must be a method of OwnUpdate, got 'go'"):
        find_teacher(OwnUpdate(), Settings(update_method='go'))
