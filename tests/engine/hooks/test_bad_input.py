# SPDX-License-Identifier: Apache-2.0
"""What a config gets wrong is one line before the first iteration, and nothing has been written."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from se_mm.smoothing import OptionError

SE = dict(type='SpatialEnsembleHook')
STS = dict(type='SETMAHook')

# Options that are wrong in any model, and a part of the line that says so.
WRONG_OPTIONS = [
    (dict(SE, keep_prob=1), r'keep_prob must be a number in \[0, 1\), got 1'),
    (dict(SE, keep_prob=-0.1), r'keep_prob must be a number in \[0, 1\), got -0.1'),
    (dict(STS, keep_prob=math.nan), r'keep_prob must be a number in \[0, 1\), got nan'),
    (dict(STS, keep_prob='0.7'), r"keep_prob must be a number in \[0, 1\), got '0.7'"),
    (dict(STS, keep_prob=dict(type='cosne', start=0, end=0.5)), "Did you mean 'cosine'"),
    (
        dict(STS, keep_prob=dict(type='cosine', start=0.1)),
        'keep_prob.end must be a number .*, got None',
    ),
    (dict(STS, momentum=0), r'momentum must be a number in \(0, 1\], got 0'),
    (dict(STS, momentum=1.5), r'momentum must be a number in \(0, 1\], got 1.5'),
    (dict(STS, momentum='0.1'), r"momentum must be a number .*, got '0.1'"),
    (dict(STS, match_horizon='yes'), "match_horizon must be True or False, got 'yes'"),
    (
        dict(SE, momentum=0.1),
        'SpatialEnsembleHook copies units and has no average: remove momentum, or use SETMAHook',
    ),
    (
        dict(SE, granularity='chanel'),
        "granularity must be one of .*, got 'chanel'.*Did you mean 'channel'",
    ),
    (dict(SE, granularity=['layer']), r"granularity must be one of .*, got \['layer'\]"),
    (dict(SE, buffers='coppy'), "buffers must be one of .*, got 'coppy'.*Did you mean 'copy'"),
    (dict(STS, keep_porb=0.5), "SETMAHook has no option 'keep_porb'.*Did you mean 'keep_prob'"),
    (dict(STS, momentun=0.5), "SETMAHook has no option 'momentun'.*Did you mean 'momentum'"),
    (dict(STS, interval=0), 'interval must be an integer >= 1, got 0'),
    (dict(STS, interval=1.5), 'interval must be an integer >= 1, got 1.5'),
    (dict(STS, begin_iter=-1), 'begin_iter must be an integer >= 0, got -1'),
    (
        dict(STS, begin_iter=2, begin_epoch=2),
        'begin_iter and begin_epoch must not both be set, got 2 and 2',
    ),
    (dict(STS, seed='x'), "seed must be an integer >= 0, got 'x'"),
    (dict(STS, diff_rank_picks=1), 'diff_rank_picks must be True or False, got 1'),
    (dict(STS, overrides=['neck']), r"overrides must be a dict .*, got \['neck'\]"),
    (
        dict(STS, overrides=dict(neck='copie')),
        r"overrides\['neck'\] must be one of .*, got 'copie'",
    ),
    (
        dict(STS, overrides=dict(neck=dict(keep_prob=2))),
        r"overrides\['neck'\].keep_prob must be a number .*, got 2",
    ),
    (dict(STS, teacher=3), 'teacher must be a name, got 3'),
    (
        dict(STS, evaluate_on='techer'),
        "evaluate_on must be one of .*, got 'techer'. Did you mean 'teacher'",
    ),
]

# Options that are wrong in a run of the small BYOL (6 iterations).
WRONG_IN_BYOL = [
    (dict(STS, begin_iter=6), 'begin_iter must be < 6, the iterations of the run, got 6'),
    (dict(STS, begin_epoch=2), 'begin_epoch must be <= 1, the epochs of the run, got 2'),
    (dict(STS, overrides={'bakbone': 'copy'}), "must match a tensor .*Did you mean 'backbone'"),
    (
        dict(STS, teacher='target_nt'),
        "teacher must be the dotted name .*, got 'target_nt'. Did you mean 'target_net'",
    ),
    (
        dict(STS, teacher='backbone'),
        "student must be set with teacher='backbone', .* found: 'target_net'",
    ),
    (
        dict(STS, student='bakbone'),
        "student must be the dotted name .*, got 'bakbone'. Did you mean 'backbone'",
    ),
    (dict(STS, student='backbone'), "the student must have a tensor 'backbone.0"),
    (dict(STS, student=['backbone']), r"student must name 2 modules, .*, got \['backbone'\]"),
    (dict(STS, student=['neck', 'backbone']), 'the student must have a tensor'),
    (
        dict(STS, student=['backbone', 'head.predictor']),
        r'must have the same shapes: .* \(16, 16\)',
    ),
    (
        dict(STS, evaluate_on='student'),
        "evaluate_on needs a copy of the model, .*'target_net' inside",
    ),
]

WRONG_IN_CLASSIFIER = [
    (
        dict(STS, teacher='ema'),
        "teacher must be the dotted name of a module in ImageClassifier, got 'ema'",
    ),
    (dict(STS, kind='averaged'), "ImageClassifier has no teacher of kind 'averaged'"),
    (dict(STS, kind='pair'), "no teacher of kind 'pair' .*: name modules by teacher= and student="),
    (dict(STS, kind='pare'), "kind must be one of .*, got 'pare'. Did you mean 'pair'"),
]


@HOOKS.register_module(force=True)
class NoIterationHook(Hook):
    """Fails where a first iteration begins."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        raise AssertionError('the run began')


def message_of(start):
    with pytest.raises(OptionError) as error:
        start()
    assert '\n' not in str(error.value)
    return str(error.value)


def ids(case):
    return (
        '-'.join(f'{key}={value}' for key, value in case.items()) if isinstance(case, dict) else ''
    )


@pytest.mark.parametrize('hook, message', WRONG_OPTIONS, ids=ids)
def test_wrong_option_is_refused_when_the_runner_is_built(runs, byol_cfg, hook, message):
    with pytest.raises(OptionError, match=message) as error:
        runs.build(byol_cfg, hook)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('hook, message', WRONG_IN_BYOL, ids=ids)
def test_promise_7_option_that_does_not_fit_the_model_is_refused_before_the_first_iteration(
    runs, byol_cfg, hook, message
):
    runner = runs.build(byol_cfg, hook, dict(type='NoIterationHook'))
    with pytest.raises(OptionError, match=message) as error:
        runner.train()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('hook, message', WRONG_IN_CLASSIFIER, ids=ids)
def test_promise_7_naming_a_teacher_where_there_is_none_is_refused(
    runs, classifier_cfg, hook, message
):
    runner = runs.build(classifier_cfg, hook, dict(type='NoIterationHook'))
    with pytest.raises(OptionError, match=message):
        runner.train()


@pytest.mark.parametrize('cfg', ['byol_cfg', 'classifier_cfg'])
def test_both_hooks_at_once_are_refused(runs, cfg, request):
    runner = runs.build(request.getfixturevalue(cfg), STS, SE, dict(type='NoIterationHook'))
    with pytest.raises(
        OptionError, match='must have only one hook that updates the teacher, got SETMAHook and Spa'
    ):
        runner.train()


@pytest.mark.parametrize('scope', ['mmengine.EMAHook', 'mmpretrain.EMAHook'])
def test_the_hook_that_is_replaced_must_go(runs, classifier_cfg, scope):
    runner = runs.build(classifier_cfg, STS, dict(type=scope), dict(type='NoIterationHook'))
    with pytest.raises(OptionError, match=r"remove dict\(type='EMAHook'"):
        runner.train()


def test_emahook_beside_a_teacher_inside_the_model_is_welcome(runs):
    runner = runs.byol(STS, dict(type='EMAHook'), max_iters=2)
    assert runner.iter == 2


def test_refused_run_leaves_an_earlier_checkpoint_as_it_is(runs, byol_cfg):
    first = runs.byol(STS, max_iters=3)
    path = Path(first.work_dir) / 'iter_3.pth'
    before = path.read_bytes()
    runner = runs.build(
        byol_cfg, dict(STS, begin_iter=99), work_dir=first.work_dir, resume=True, max_iters=6
    )
    with pytest.raises(OptionError):
        runner.train()
    assert path.read_bytes() == before


def test_student_that_the_model_passes_counts_and_not_the_one_that_is_named(runs, byol_cfg):
    # Two siblings alike: the option names the wrong one, and the model knows better.
    hook = dict(SE, keep_prob=0.0, student=['twin', 'neck'])
    cfg = byol_cfg(runs.folder / 'a', [hook], optim_wrapper=dict(optimizer=dict(lr=0.0)))
    runner = Runner.from_cfg(cfg)
    runner.model.twin = type(runner.model.backbone)(
        **{k: v for k, v in cfg.model.backbone.items() if k != 'type'}
    )
    runner.train()
    teacher = runner.model.target_net.module[0].conv1.weight
    assert torch.equal(teacher, runner.model.backbone.conv1.weight)
    assert not torch.equal(teacher, runner.model.twin.conv1.weight)


def test_student_that_could_be_several_must_be_named(runs, byol_cfg):
    def with_twin(**option):
        runner = runs.build(byol_cfg, dict(STS, **option))
        backbone = runner.cfg.model.backbone
        runner.model.twin = type(runner.model.backbone)(
            **{key: value for key, value in backbone.items() if key != 'type'}
        )
        return runner

    message = message_of(with_twin().train)
    assert "student must be set for the teacher 'target_net'" in message
    assert "'backbone', 'twin' have the same tensors" in message
    assert (
        with_twin(
            student=['backbone', 'neck'],
        ).train()
        is not None
    )


def test_model_with_several_teachers_must_name_one(runs, byol_cfg):
    runner = runs.build(byol_cfg, STS)
    runner.model.other = torch.nn.Sequential(type(runner.model.target_net)(runner.model.neck))
    message = message_of(runner.train)
    assert "'target_net', 'other.0'" in message
