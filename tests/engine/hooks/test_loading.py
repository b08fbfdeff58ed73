# SPDX-License-Identifier: Apache-2.0
"""What the stock hook loads, tests and resumes, ours does, with the same tolerance."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn

from se_mm.engine.runner.resumable_runner import ResumableRunner
from tests.toys import (
    EMA,
    SAVING,
    SE,
    TMA,
    Momentum,
    Plain,
    Toy,
    ToyMeanTeacher,
    assert_close,
    hook_of,
    shadow_of,
    state_of,
)

HOOKS_TABLE = [EMA, dict(TMA, momentum=0.1), SE]
OURS = HOOKS_TABLE[1:]
NAMES = ['stock', 'TMA', 'SE']


@pytest.mark.parametrize('hook', HOOKS_TABLE, ids=NAMES)
def test_promise_3_test_time_augmentation_tests_the_teacher(toys, hook):
    runner = toys.train(dict(type='Plain'), hook, iters=20, default_hooks=SAVING)
    path = f'{runner.work_dir}/iter_20.pth'
    plain, tta = dict(type='Plain'), dict(type='ToyTTA', module=dict(type='Plain'))
    expected = toys.test(plain, load_from=path)
    for model in (plain, tta):
        for hooks in ((), (hook,)):
            assert toys.test(model, *hooks, load_from=path) == pytest.approx(expected)


@pytest.mark.parametrize('cls', [Runner, ResumableRunner])
@pytest.mark.parametrize('hook', HOOKS_TABLE, ids=NAMES)
@pytest.mark.parametrize(
    'write',
    [
        lambda state: dict(state_dict=state, meta={}),
        lambda state: dict(state_dict={f'module.{k}': v for k, v in state.items()}, meta={}),
        lambda state: dict(state_dict={**state, 'of.another': torch.ones(3)}, meta={}),
        lambda state: state,
    ],
    ids=['plain', 'module. prefixes', 'more than there is', 'bare state dict'],
)
def test_promise_3_model_with_other_classes_loads_what_fits_and_trains(toys, cls, hook, write):
    if hook is EMA and not isinstance(write({}).get('state_dict'), dict):
        pytest.skip('the stock hook needs the key state_dict')
    torch.manual_seed(3)
    trained, path = Plain(80), toys.folder / 'coco.pth'
    torch.save(write(trained.state_dict()), path)
    runner = toys.train(lambda_of(Plain, 3), hook, cls=cls, load_from=str(path), iters=1, lr=0.0)
    assert torch.equal(runner.model.backbone.weight, trained.backbone.weight)
    assert_close(shadow_of(runner), runner.model)


def lambda_of(model, *args):
    """A model that is built with the seed of the run."""
    torch.manual_seed(0)
    return model(*args)


@MODELS.register_module(force=True)
class Customised(Toy):
    """A model whose state dict leaves its frozen part out, as of a language model."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 1)

        def drop(module, state, prefix, meta):
            for key in [k for k in state if k.startswith(f'{prefix}frozen.')]:
                state.pop(key)

        self._register_state_dict_hook(drop)

    def predict(self, inputs):
        return self.head(self.frozen(inputs))


@MODELS.register_module(force=True)
class OddBuffers(Plain):
    """Buffers that are not saved, are sparse, empty, complex, of another dtype, or None."""

    def __init__(self):
        super().__init__()
        self.register_buffer('unsaved', torch.ones(2), persistent=False)
        self.register_buffer('graph', torch.eye(3).to_sparse())
        self.register_buffer('none', None)
        self.register_buffer('empty', torch.empty(0, 3))
        self.register_buffer('phase', torch.ones(2, dtype=torch.complex64))
        self.register_buffer('low', torch.ones(2, dtype=torch.float16))


@pytest.mark.parametrize('cls', [Runner, ResumableRunner])
@pytest.mark.parametrize('hook', [dict(EMA, strict_load=False), *OURS], ids=NAMES)
@pytest.mark.parametrize('model', ['Customised', 'OddBuffers'])
def test_promise_3_customised_state_dicts_and_odd_buffers_resume(toys, cls, hook, model):
    if hook['type'] == 'EMAHook' and (model == 'OddBuffers' or cls is ResumableRunner):
        pytest.skip('not ours')
    first = toys.train(dict(type=model), hook, cls=cls, iters=5, default_hooks=SAVING)
    second = toys.train(
        dict(type=model),
        hook,
        dict(type='AtStartHook', look=lambda runner: state_of(shadow_of(runner))),
        cls=cls,
        iters=9,
        work_dir=first.work_dir,
        resume=True,
    )
    assert second.iter == 9
    kept, start = state_of(shadow_of(first)), hook_of(second, 'AtStartHook').found
    assert start.keys() == kept.keys()
    for name, value in kept.items():
        assert torch.equal(start[name].to_dense(), value.to_dense()), name


@HOOKS.register_module(force=True)
class EmbedTextHook(Hook):
    """Fills a buffer before the test, as open-vocabulary models do with their classes."""

    def before_test(self, runner):
        runner.model.text.fill_(1.0)

    def before_val(self, runner):
        runner.model.text.fill_(1.0)


@MODELS.register_module(force=True)
class WithText(Toy):
    """A network whose last weights are a buffer that a hook fills."""

    def __init__(self, persistent=False):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer('text', torch.zeros(6, 1), persistent=persistent)

    def predict(self, inputs):
        return self.fc(inputs) @ self.text


@pytest.mark.parametrize('hook', [None, *HOOKS_TABLE], ids=['none', *NAMES])
def test_promise_10_buffer_that_a_hook_writes_before_the_test_is_there_during_it(toys, hook):
    path = toys.folder / 'c.pth'
    torch.save(
        dict(state_dict={'fc.weight': torch.eye(6), 'fc.bias': torch.zeros(6)}, meta={}), path
    )
    hooks = [hook] if hook else []
    model = dict(type='WithText')
    found = toys.test(model, *hooks, dict(type='EmbedTextHook'), load_from=str(path))
    assert found == pytest.approx(0, abs=1e-8)


def second_stage(toys, model, weights, *hooks, **changes):
    """A training that begins from a checkpoint of another training, with nothing learned."""
    path = toys.folder / 'first_stage.pth'
    torch.save(dict(state_dict=weights, meta=dict(iter=500, epoch=0)), path)
    return toys.train(model, *hooks, iters=3, lr=0.0, load_from=str(path), **changes)


def filled(model, prefix, value):
    return {
        f'{prefix}{name}': torch.full_like(tensor, value)
        for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize('hook', [None, *OURS], ids=['stock', 'TMA', 'SE'])
def test_promise_10_loaded_average_of_a_first_stage_goes_on(toys, hook):
    model = Momentum()
    weights = filled(model.encoder, 'encoder.', 1) | filled(model.encoder, 'target.module.', 7)
    weights['target.steps'] = torch.tensor(500)
    options = [dict(hook, keep_prob=0.0, momentum=0.1, **{}) if hook is OURS[0] else hook]
    runner = second_stage(toys, model, weights, *(options if hook else []))
    assert int(runner.model.target.steps) == 503
    weight = runner.model.target.module[2].weight
    if hook is None or hook is OURS[0]:
        torch.testing.assert_close(weight, torch.full_like(weight, 1 + 6 * 0.9**3))
    if hook:
        assert hook_of(runner).updater.started


@pytest.mark.parametrize('hook', OURS, ids=['TMA', 'SE'])
@pytest.mark.parametrize('initial_teacher', ['loaded', 'student'])
def test_promise_10_loaded_pair_goes_on_or_begins_anew_as_the_option_says(
    toys, hook, initial_teacher, monkeypatch
):
    model = ToyMeanTeacher()
    weights = filled(model.student, 'student.', 1) | filled(model.student, 'teacher.', 7)
    hook = dict(hook, initial_teacher=initial_teacher, overrides={'0.': 'skip'})
    runner = second_stage(toys, model, weights, hook)
    # What is never moved is the teacher's that was loaded, or the student's.
    expected = 7 if initial_teacher == 'loaded' else 1
    assert (runner.model.teacher[0].weight == expected).all()


def test_teacher_that_goes_on_is_said_with_the_option_that_decides(toys, monkeypatch):
    model, said = ToyMeanTeacher(), []
    weights = filled(model.student, 'student.', 1) | filled(model.student, 'teacher.', 7)
    path = toys.folder / 'first_stage.pth'
    torch.save(dict(state_dict=weights, meta={}), path)
    runner = toys.build(model, OURS[0], iters=1, load_from=str(path))
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *a, **k: said.append(text))
    runner.train()
    (line,) = [text for text in said if 'the teacher in the checkpoint continues' in text]
    assert "initial_teacher='student'" in line


@pytest.mark.parametrize('hook', OURS, ids=['TMA', 'SE'])
def test_promise_2_student_alone_in_a_checkpoint_is_copied(toys, hook):
    model = ToyMeanTeacher()
    torch.manual_seed(9)
    trained = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    weights = {f'student.{name}': value for name, value in trained.state_dict().items()}
    runner = second_stage(toys, model, weights, hook)
    for name, parameter in trained.named_parameters():
        assert torch.equal(runner.model.teacher.get_parameter(name), parameter)


@pytest.mark.parametrize('hook', HOOKS_TABLE, ids=NAMES)
def test_promise_3_second_stage_of_a_shadow_begins_from_the_teacher_that_was_saved(toys, hook):
    first = toys.train(Plain, hook, iters=8, default_hooks=SAVING)
    path = f'{first.work_dir}/iter_8.pth'
    runner = toys.train(Plain, hook, iters=1, lr=0.0, load_from=path)
    saved = torch.load(path, weights_only=False)['state_dict']
    assert_close(runner.model, saved)
    assert_close(shadow_of(runner), saved)
