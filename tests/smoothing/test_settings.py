# SPDX-License-Identifier: Apache-2.0
"""Settings: what is valid, which rule applies to which tensor, and what the defaults are."""

import copy
import dataclasses
import math
import pickle

import pytest

from se_mm.smoothing import OptionError, Rule, Settings, keep_prob_schedule, momentum_schedule


def settings(overrides=None, keep_prob=0.7, momentum=0.1, **options):
    return Settings(keep_prob=keep_prob, momentum=momentum, overrides=overrides or {}, **options)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings().keep_prob = 0.5


def test_override_changes_what_it_names_and_takes_the_rest_from_the_default():
    made = settings({'head': dict(keep_prob=0.2), 'neck': dict(granularity='layer')})
    head, neck = made.rule_of('head.fc.weight'), made.rule_of('neck.0.weight')
    assert (head.keep_prob(0, 1), head.average(0, 1), head.granularity) == (0.2, 0.1, 'tensor')
    assert (neck.keep_prob(0, 1), neck.average(0, 1), neck.granularity) == (0.7, 0.1, 'layer')
    assert made.rule_of('backbone.weight') == made.default


def test_longest_matching_part_counts():
    made = settings({'head': 'skip', 'head.fc': 'copy', 'fc': dict(keep_prob=0.1)})
    assert made.rule_of('head.fc.weight') == 'copy'
    assert made.rule_of('head.norm.weight') == 'skip'
    assert made.rule_of('other.fc.weight').keep_prob(0, 1) == 0.1
    assert made.part_of('head.fc.weight') == 'head.fc'
    assert made.part_of('neck.weight') is None


def test_matched_horizon_divides_the_momentum_and_stays_at_most_one():
    assert settings(momentum=0.03, match_horizon=True).default.average(0, 1) == pytest.approx(0.1)
    assert settings(momentum=0.03).default.average(0, 1) == 0.03
    # A weight of 1 is a copy.
    assert settings(momentum=0.5, match_horizon=True).default.average(0, 1) is None


def test_matched_horizon_follows_the_schedules_of_both():
    moving = settings(
        keep_prob=dict(type='linear', start=0.0, end=0.8),
        momentum=dict(type='linear', start=0.1, end=0.05),
        match_horizon=True,
    ).default
    assert moving.average(0, 10) == pytest.approx(0.1)
    assert moving.average(10, 10) == pytest.approx(0.25)


def test_matched_horizon_needs_an_average_that_is_a_momentum():
    rule = settings(momentum=None, match_horizon=True).default
    assert rule.average(3, 9, lambda step: 0.03) == pytest.approx(0.1)
    with pytest.raises(OptionError, match='match_horizon=True needs an average that is a momentum'):
        rule.average(3, 9, lambda step: lambda teacher, student: None)


def test_momentum_one_copies_and_none_is_the_average_that_there_was():
    assert settings(momentum=1).default.copies
    assert settings(momentum=1).default.average(0, 1) is None
    assert not settings(momentum=0.999).default.copies
    assert settings(momentum=None).default.average(4, 9, lambda step: step / 10) == 0.4


@pytest.mark.parametrize(
    'overrides, message',
    [
        (['head'], r"overrides must be a dict of name part -> .*, got \['head'\]"),
        ({'head': 'copie'}, "overrides\\['head'\\] must be one of .*'copie'.*Did you mean 'copy'"),
        ({'head': 0.5}, r"overrides\['head'\] must be a dict, 'copy' or 'skip', got 0.5"),
        ({'': 'copy'}, "must be a part of a tensor name, got ''"),
        ({3: 'copy'}, 'must be a part of a tensor name, got 3'),
        ({'head': dict(keep_prob=1)}, r"overrides\['head'\].keep_prob must be a number .* got 1"),
        ({'head': dict(keep_porb=0.1)}, "Did you mean 'keep_prob'"),
        ({'head': dict(momentum=0)}, r"overrides\['head'\].momentum must be a number .*, got 0"),
        ({'head': dict(granularity='chanel')}, "Did you mean 'channel'"),
    ],
)
def test_wrong_override_is_refused_by_one_line(overrides, message):
    with pytest.raises(OptionError, match=message) as error:
        settings(overrides)
    assert '\n' not in str(error.value)


def test_override_of_the_momentum_needs_an_average():
    with pytest.raises(OptionError, match="no option 'momentum'"):
        settings({'head': dict(momentum=0.1)}, momentum=1.0)
    made = settings({'head': dict(momentum=0.1)}, momentum=None)
    assert made.rule_of('head').average(0, 1) == 0.1


def test_override_that_matches_nothing_is_refused_naming_the_nearest_module():
    made = settings({'backbone.layr1': 'copy'})
    with pytest.raises(OptionError, match=r"'backbone.layr1'.*Did you mean 'backbone.layer1'"):
        made.check_matches(['backbone.layer1.conv.weight', 'head.fc.weight'])


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(keep_prob=1.5), r'^keep_prob must be a number in \[0, 1\), got 1.5$'),
        (dict(keep_prob=math.nan), r'keep_prob must be a number in \[0, 1\), got nan'),
        (dict(momentum=0), r'momentum must be a number in \(0, 1\], got 0'),
        (dict(match_horizon='yes'), "match_horizon must be True or False, got 'yes'"),
        (dict(granularity='chanel'), "granularity must be one of .*Did you mean 'channel'"),
        (dict(granularity=['layer']), r"granularity must be one of .*, got \['layer'\]"),
        (dict(buffers='coppy'), "buffers must be one of .*Did you mean 'copy'"),
        (dict(interval=0), '^interval must be an integer >= 1, got 0$'),
        (dict(interval=1.5), 'interval must be an integer >= 1, got 1.5'),
        (dict(begin_iter=-1), 'begin_iter must be an integer >= 0, got -1'),
        (dict(begin_iter=2, begin_epoch=2), 'begin_iter and begin_epoch must not both be set'),
        (dict(seed='x'), "seed must be an integer >= 0, got 'x'"),
        (dict(diff_rank_picks=1), 'diff_rank_picks must be True or False, got 1'),
        (dict(check_teachers=-1), 'check_teachers must be an integer >= 0, got -1'),
        (dict(check_teachers=True), 'check_teachers must be an integer >= 0, got True'),
        (dict(check_teachers=2, diff_rank_picks=True), 'check_teachers must be 0 with diff_rank'),
        (dict(check_finite=0.5), 'check_finite must be an integer >= 0, got 0.5'),
        (dict(non_finite='skipp'), "non_finite must be one of .*Did you mean 'skip'"),
        (dict(non_finite='skip'), "non_finite='skip' needs check_finite=1, .* check_finite=100"),
        (dict(initial_teacher='mine'), "initial_teacher must be one of 'loaded', 'student'"),
        (dict(evaluate_on='techer'), "evaluate_on must be one of .*Did you mean 'teacher'"),
        (dict(kind=3), 'kind must be a name, got 3'),
        (dict(teacher=''), "teacher must be a name, got ''"),
        (dict(update_method=3), 'update_method must be a name, got 3'),
        (dict(student=[]), r'student must be the dotted name of a module or a list .* got \[\]'),
        (dict(student=3), 'student must be the dotted name of a module or a list .* got 3'),
        (dict(student=['a', 3]), r"student must be .*, got \['a', 3\]"),
    ],
    ids=str,
)
def test_wrong_option_is_refused_by_one_line_with_what_must_hold_and_what_was_given(
    options, message
):
    with pytest.raises(OptionError, match=message) as error:
        Settings(**options)
    assert '\n' not in str(error.value)


def test_settings_survive_copies_pickles_and_their_plain_form():
    made = settings(
        {'head': dict(keep_prob=0.2), 'norm': 'copy'},
        keep_prob=dict(type='cosine', start=0.1, end=0.9),
        student=['backbone', 'neck'],
        interval=3,
    )
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), Settings(**made.plain())):
        assert again == made
        assert again.rule_of('head.weight') == made.rule_of('head.weight')
        assert again.plain() == made.plain()


def test_rules_say_what_they_do():
    assert str(settings(momentum=1).default) == 'keep_prob 0.7, tensor units'
    assert str(settings().default) == 'keep_prob 0.7, momentum 0.1, tensor units'
    assert "the model's own average" in str(settings(momentum=None).default)
    assert 'matched horizon' in str(settings(match_horizon=True).default)


def test_rule_of_schedules_has_their_values():
    rule = Rule(
        keep_prob_schedule('keep_prob', 0.5), momentum_schedule('momentum', 0.3), False, 'tensor'
    )
    assert (rule.keep_prob(3, 9), rule.average(3, 9)) == (0.5, 0.3)
