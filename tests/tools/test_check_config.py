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
    assert 'interval=9 is beyond the run' in said


def test_shares_are_counted_by_rule(digits):
    overrides = {'head': dict(keep_prob=0.9, granularity='element'), 'conv1': 'skip'}
    report = check_config(digits(**{'custom_hooks.0.overrides': overrides}))
    shares = {share.source: share for share in report.shares}
    head = shares["overrides['head']"]
    assert head.names == ('head.fc.weight', 'head.fc.bias')
    assert (head.units, head.numbers, head.bytes) == (170, 170, 680)
    assert head.horizon == pytest.approx((1 / (0.0002 * 0.1),) * 2)
    assert shares['default'].horizon == pytest.approx((1 / (0.0002 * 0.5),) * 2)
    assert shares["overrides['conv1']"].units == 0


def test_se_horizon_at_both_ends_of_a_schedule(digits):
    hook = dict(type='SpatialEnsembleHook', keep_prob=dict(type='linear', start=0.5, end=0.9))
    report = check_config(digits(custom_hooks=[hook]))
    assert report.shares[0].horizon == pytest.approx((2, 10))


def test_check_leaves_generators_and_scopes_alone(digits):
    random.seed(1), torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    scopes = dict(DefaultScope._instance_dict)
    check_config(digits())
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert list(DefaultScope._instance_dict) == list(scopes)


def test_pair_without_a_hook_is_refused(pair_model):
    with pytest.raises(OptionError, match='no hook that moves the teacher of FixMatch'):
        check_config(pair_model([]))
    report = check_config(pair_model([dict(type='SETMAHook')]))
    assert report.teacher == 'teacher (pair) follows student'
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
        ({'custom_hooks.0.begin_iter': 4}, 'begin_iter=4 is beyond the run'),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(digits, change, said):
    cfg = digits()
    for key, value in change.items():
        cfg.merge_from_dict({key: value}) if key != 'custom_hooks' else cfg.update({key: value})
    with pytest.raises(OptionError, match=said) as error:
        check_config(cfg)
    assert '\n' not in str(error.value)
