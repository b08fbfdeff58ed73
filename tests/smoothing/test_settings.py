# SPDX-License-Identifier: Apache-2.0
"""Which rule holds for which tensor, and what is refused."""

import pytest

from se_mm.smoothing import OptionError, Rule, build_rules, keep_prob_schedule, momentum_schedule


def rule(momentum=0.1, match_horizon=False, keep_prob=0.7):
    return Rule(
        keep_prob_schedule('keep_prob', keep_prob),
        None if momentum is None else momentum_schedule('momentum', momentum),
        match_horizon,
        'tensor',
    )


def test_override_changes_what_it_names_and_takes_the_rest_from_the_default():
    rules = build_rules(rule(), {'head': dict(keep_prob=0.2), 'neck': dict(granularity='layer')})
    head, neck = rules.of('head.fc.weight'), rules.of('neck.0.weight')
    assert (head.keep_prob(0, 1), head.average(0, 1), head.granularity) == (0.2, 0.1, 'tensor')
    assert (neck.keep_prob(0, 1), neck.average(0, 1), neck.granularity) == (0.7, 0.1, 'layer')
    assert rules.of('backbone.weight') == rules.default


def test_longest_matching_part_counts():
    rules = build_rules(rule(), {'head': 'skip', 'head.fc': 'copy', 'fc': dict(keep_prob=0.1)})
    assert rules.of('head.fc.weight') == 'copy'
    assert rules.of('head.norm.weight') == 'skip'
    assert rules.of('other.fc.weight').keep_prob(0, 1) == 0.1


def test_matched_horizon_divides_the_momentum_and_stays_at_most_one():
    assert rule(0.03, match_horizon=True).average(0, 1) == pytest.approx(0.1)
    assert rule(0.5, match_horizon=True).average(0, 1) == 1.0
    assert rule(0.03).average(0, 1) == 0.03


def test_matched_horizon_follows_the_schedules_of_both():
    moving = Rule(
        keep_prob_schedule('keep_prob', dict(type='linear', start=0.0, end=0.8)),
        momentum_schedule('momentum', dict(type='linear', start=0.1, end=0.05)),
        True,
        'tensor',
    )
    assert moving.average(0, 10) == pytest.approx(0.1)
    assert moving.average(10, 10) == pytest.approx(0.25)


@pytest.mark.parametrize(
    'overrides, message',
    [
        (['head'], r"overrides=\['head'\] is not allowed: a dict"),
        ({'head': 'copie'}, "overrides\\['head'\\]='copie' is not allowed.*Did you mean 'copy'"),
        ({'head': 0.5}, r"overrides\['head'\]=0.5 is not allowed"),
        ({'': 'copy'}, 'not empty'),
        ({3: 'copy'}, 'a part of a tensor name'),
        ({'head': dict(keep_prob=1)}, r"overrides\['head'\].keep_prob=1 is not allowed"),
        ({'head': dict(keep_porb=0.1)}, "Did you mean 'keep_prob'"),
        ({'head': dict(momentum=0)}, r"overrides\['head'\].momentum=0 is not allowed"),
        ({'head': dict(granularity='chanel')}, "Did you mean 'channel'"),
    ],
)
def test_wrong_override_is_refused_by_one_line(overrides, message):
    with pytest.raises(OptionError, match=message) as error:
        build_rules(rule(), overrides)
    assert '\n' not in str(error.value)


def test_override_of_the_momentum_needs_an_average():
    with pytest.raises(OptionError, match="no option 'momentum'"):
        build_rules(rule(momentum=None), {'head': dict(momentum=0.1)})


def test_override_that_matches_nothing_is_refused_naming_the_nearest_module():
    rules = build_rules(rule(), {'backbone.layr1': 'copy'})
    with pytest.raises(OptionError, match=r"'backbone.layr1'.*Did you mean 'backbone.layer1'"):
        rules.check_matches(['backbone.layer1.conv.weight', 'head.fc.weight'])
