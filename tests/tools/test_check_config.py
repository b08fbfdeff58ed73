# SPDX-License-Identifier: Apache-2.0
"""tools/check_config.py: what a config would update, and what it refuses."""

import random

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from se_mm.engine.check import check_config
from se_mm.smoothing.options import OptionError


@pytest.fixture
def digits(tools_in):
    """Reads the small classifier's config, with changes."""

    def changed(**changes):
        cfg = Config.fromfile(tools_in.config)
        cfg.merge_from_dict(changes)
        return cfg

    return changed


def test_tool_says_what_is_updated_and_writes_nothing(tools):
    output = tools.succeed(
        'check_config.py',
        tools.config,
        '--cfg-options',
        'custom_hooks.0.overrides.conv1=copy',
        'custom_hooks.0.granularity=channel',
    )
    assert 'model: ImageClassifier' in output
    assert 'a copy of the model (shadow) follows ImageClassifier' in output
    assert 'updates: 4' in output
    assert "overrides['conv1']" in output and '  backbone.conv1.weight' in output
    assert not list(tools.folder.iterdir())


def test_tool_refuses_in_one_line(tools):
    said = tools.fail('check_config.py', tools.config, '--cfg-options', 'custom_hooks.0.interval=9')
    assert 'interval must be <= 4, the opportunities for an update in the run, got 9' in said


def test_groups_are_counted_by_rule(digits):
    overrides = {'head': dict(keep_prob=0.9, granularity='element'), 'conv1': 'skip'}
    report = check_config(digits(**{'custom_hooks.0.overrides': overrides}))
    groups = {group.source: group for group in report.groups}
    head = groups["overrides['head']"]
    assert head.names == ('head.fc.weight', 'head.fc.bias')
    assert (head.units, head.numbers, head.bytes) == (170, 170, 680)
    assert head.horizon == pytest.approx((1 / (0.0002 * 0.1),) * 2)
    assert groups['default'].horizon == pytest.approx((1 / (0.0002 * 0.5),) * 2)
    assert groups["overrides['conv1']"].units == 0


def test_se_horizon_at_both_ends_of_a_schedule(digits):
    hook = dict(type='SpatialEnsembleHook', keep_prob=dict(type='linear', start=0.5, end=0.9))
    report = check_config(digits(custom_hooks=[hook]))
    (group,) = [group for group in report.groups if group.source == 'default']
    assert group.horizon == pytest.approx((2, 10))


def test_check_leaves_generators_and_scopes_alone(digits):
    random.seed(1), torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    scopes = dict(DefaultScope._instance_dict)
    check_config(digits())
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert list(DefaultScope._instance_dict) == list(scopes)


def test_pair_is_found_and_one_that_no_hook_moves_is_said(pair_model):
    report = check_config(pair_model([]))
    assert report.lines == ('teacher (pair)',) and report.hook == 'none of se_mm'
    report = check_config(pair_model([dict(type='SETMAHook')]))
    assert report.lines[0].startswith('teacher (pair) follows student; keep_prob 0.7')
    assert report.updates == 5  # The teacher is used before the first iteration.


@pytest.fixture
def pair_model(digits):
    """The config of a FixMatch, whose data are not looked at, with hooks."""

    def cfg(hooks):
        changed = digits(custom_hooks=hooks)
        changed.model = dict(type='FixMatch', threshold=0.9, classifier=changed.model)
        return changed

    return cfg


@pytest.mark.parametrize(
    'change, said',
    [
        ({'custom_hooks.0.overrides': {'backbone': 'skip', 'head': 'skip'}}, 'skips all'),
        (
            {'custom_hooks.0.begin_iter': 4},
            'begin_iter must be < 4, the iterations of the run, got 4',
        ),
        ({'custom_hooks.0.keep_prob': 1.5}, r'keep_prob must be a number in \[0, 1\), got 1.5'),
        ({'custom_hooks.0.overrides': {'bakbone': 'copy'}}, "Did you mean 'backbone'"),
        ({'custom_hooks.0.teacher': 'ema'}, "teacher must be the dotted name .*, got 'ema'"),
        ({'custom_hooks.0.kind': 'pair'}, "ImageClassifier has no teacher of kind 'pair'"),
        ({'custom_hooks.0.keep_porb': 0.5}, "no option 'keep_porb'. Did you mean 'keep_prob'"),
        ({'custom_hooks': [dict(type='SETMAHok')]}, "'SETMAHok'. Did you mean 'SETMAHook'"),
        (
            {'custom_hooks': [dict(type='SETMAHook'), dict(type='SpatialEnsembleHook')]},
            'must have only one hook that updates the teacher',
        ),
        ({'custom_hooks': [dict(type='SETMAHook'), dict(type='EMAHook')]}, 'remove dict'),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(digits, change, said):
    cfg = digits()
    for key, value in change.items():
        cfg.merge_from_dict({key: value}) if key != 'custom_hooks' else cfg.update({key: value})
    with pytest.raises(OptionError, match=said) as error:
        check_config(cfg)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'change',
    [
        {'optim_wrapper.optimizer.type': 'SGDD'},
        {'train_dataloader.dataset.type': 'Digitz'},
        {'train_dataloader.num_workers': -1},
        {'train_dataloader.sampler': None},
        {'val_evaluator.type': 'MyOwnMetric'},
        {'work_dir': '/proc/x'},
    ],
    ids=str,
)
def test_promise_7_what_is_mmengines_to_judge_is_not_judged_by_us(digits, change):
    cfg = digits()
    cfg.merge_from_dict(change)
    assert check_config(cfg).hook == 'SETMAHook'


def test_promise_7_error_of_a_model_keeps_its_type(digits):
    with pytest.raises(TypeError, match='deth'):
        check_config(digits(**{'model.backbone.deth': 18}))


def test_check_and_log_say_the_same(digits, monkeypatch, tmp_path):
    from mmengine.runner import Runner

    cfg = digits(work_dir=str(tmp_path))
    report = check_config(cfg)
    runner = Runner.from_cfg(cfg)
    said = []
    monkeypatch.setattr(runner.logger, 'info', lambda text, *a, **k: said.append(str(text)))
    runner.train()
    assert any(report.lines[0] in text for text in said)


def test_cautions_are_in_the_report(digits):
    cfg = digits(custom_hooks=[dict(type='SETMAHook', kind='shadow')])
    cfg.model = dict(type='FixMatch', threshold=0.9, classifier=cfg.model)
    report = check_config(cfg)
    assert report.lines[0].startswith('a copy of the model (shadow) follows FixMatch')
    assert "FixMatch has a teacher of its own, 'teacher', which this hook leaves" in report.lines[1]
    assert f'caution: {report.lines[1]}' in str(report)
