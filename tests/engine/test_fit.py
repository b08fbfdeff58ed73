# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that is tested is of the model and the data; one that is loaded fits a little."""

import pytest
import torch
from mmengine.runner import Runner
from torch import nn

from se_mm.engine.fit import FitHook
from se_mm.engine.runner.resumable_runner import ResumableRunner
from se_mm.smoothing.options import OptionError
from tests.toys import EMA, Plain, Toy, ToyMeanTeacher, loader

TMA = dict(type='SETMAHook', keep_prob=0.0, momentum=0.1)
RUNNERS = pytest.mark.parametrize('cls', [Runner, ResumableRunner])


def saved(toys, state, **meta):
    path = toys.folder / 'saved.pth'
    torch.save(dict(state_dict=state, meta=meta), path)
    return str(path)


def measured(toys, model, path, *hooks, **changes):
    """Test a checkpoint as tools/test.py does."""
    options = dict(test_dataloader=loader(), test_cfg=dict(), test_evaluator=dict(type='MeanLoss'))
    options.update(train_dataloader=None, train_cfg=None, optim_wrapper=None, load_from=path)
    runner = toys.build(model, FitHook(testing=True), *hooks, **{**options, **changes})
    return runner.test()['loss']


def refused(toys, model, path, *hooks, **changes):
    with pytest.raises(OptionError) as caught:
        measured(toys, model, path, *hooks, **changes)
    said = str(caught.value)
    assert '\n' not in said and path in said
    return said


def test_checkpoint_of_the_model_is_measured(toys):
    assert measured(toys, Plain(), saved(toys, Plain().state_dict()))


@pytest.mark.parametrize('hook', [EMA, TMA], ids=['stock', 'ours'])
def test_checkpoint_with_an_average_is_tested_with_and_without_its_hook(toys, hook):
    runner = toys.train(Plain(), hook, iters=2)
    path = toys.folder / 'averaged.pth'
    runner.save_checkpoint(str(toys.folder), path.name)
    for model in (dict(type='Plain'), dict(type='ToyTTA', module=dict(type='Plain'))):
        for hooks in ((), (hook,)):
            assert measured(toys, model, str(path), *hooks)


def test_published_teacher_under_a_training_config_is_refused(toys):
    said = refused(toys, ToyMeanTeacher(), saved(toys, ToyMeanTeacher().teacher.state_dict()))
    assert 'must have the parameters of ToyMeanTeacher, got one without 12 of 12' in said
    assert 'use the config that it was trained with' in said


class Alone(Toy):
    """The network of a ToyMeanTeacher without the other."""

    def __init__(self):
        super().__init__()
        network = ToyMeanTeacher().student
        for name, child in network.named_children():
            self.add_module(name, child)

    def predict(self, inputs):
        return nn.Sequential(*self.children())(inputs)


def test_training_checkpoint_under_the_config_of_one_network_is_refused(toys):
    said = refused(toys, Alone(), saved(toys, ToyMeanTeacher().state_dict()))
    assert 'extract one network from a training checkpoint with tools/publish_teacher.py' in said


def test_head_of_other_classes_is_refused_with_both_shapes(toys):
    said = refused(toys, Plain(3), saved(toys, Plain(5).state_dict()))
    assert "got 'head.weight' with shape (5, 6) instead of (3, 6)" in said


class Renaming(Plain):
    """A model that takes weights under other names, as mmdet's semi-supervised detectors do."""

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in [name for name in state_dict if name.startswith('old_')]:
            state_dict[name.removeprefix('old_')] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


class LeavesOut(Plain):
    """A model whose state dict is without its frozen part, as of a language model."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(2, 2)

        def drop(module, state, prefix, meta):
            for name in [name for name in state if name.startswith(f'{prefix}frozen.')]:
                state.pop(name)

        self._register_state_dict_hook(drop)


def test_model_that_renames_or_leaves_out_is_measured(toys):
    state = {f'old_{name}': value for name, value in Plain().state_dict().items()}
    assert measured(toys, Renaming(), saved(toys, state))
    model = LeavesOut()
    assert measured(toys, model, saved(toys, model.state_dict()))


@RUNNERS
def test_weights_of_which_nothing_fits_are_refused_by_a_training(toys, cls):
    path = saved(toys, ToyMeanTeacher().state_dict())
    with pytest.raises(OptionError, match='got one without 4 of 4 parameters'):
        toys.train(Plain(), FitHook(testing=False), cls=cls, load_from=path, iters=1)


@RUNNERS
def test_weights_of_which_something_fits_are_loaded_by_a_training(toys, cls):
    weights = Plain(5)
    path = saved(toys, weights.state_dict())
    runner = toys.train(Plain(3), FitHook(testing=False), cls=cls, load_from=path, iters=1, lr=0.0)
    assert torch.equal(runner.model.backbone.weight, weights.backbone.weight)


@pytest.mark.parametrize('key', ['classes', 'CLASSES'])
def test_test_data_of_other_classes_than_the_checkpoints_are_refused(toys, key):
    path = saved(toys, Plain().state_dict(), dataset_meta={key: ('ants', 'bees')})
    data = loader()
    data['dataset'].metainfo = dict(classes=('ants', 'bees'))
    assert measured(toys, Plain(), path, test_dataloader=data)
    data['dataset'].metainfo = dict(classes=('ants', 'crabs'))
    said = refused(toys, Plain(), path, test_dataloader=data)
    assert said.startswith('classes of test_dataloader.dataset must be those of checkpoint')
    assert 'without bees' in said
