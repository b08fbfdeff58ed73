# SPDX-License-Identifier: Apache-2.0
"""Facts of where teachers come from, without training any."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from se_mm.history.provenance import effective_size, provenance, share_taken
from se_mm.history.segments import Segment, SmoothedTensors
from se_mm.smoothing import Settings


def segment(keep_prob, momentum=None, granularity='tensor', shapes=None, **others):
    rule = Settings(keep_prob, 1.0 if momentum is None else momentum, False, granularity).default
    shapes = shapes or {'a.weight': (6, 4), 'a.bias': (6,), 'b.weight': (3, 6)}
    return Segment(0, True, total=1000, rules=(SmoothedTensors(rule, shapes),), **others)


@given(
    st.floats(0, 0.95),
    st.one_of(st.none(), st.floats(0.01, 1)),
    st.sampled_from(['tensor', 'layer', 'channel', 'element']),
    st.integers(1, 60),
    st.integers(0, 2**40),
)
@settings(max_examples=60, deadline=None)
def test_shares_sum_to_one_and_ages_lie_in_the_run(keep_prob, momentum, granularity, updates, seed):
    found = provenance([segment(keep_prob, momentum, granularity, seed=seed)], updates)
    assert float(found.share.sum()) + found.before == pytest.approx(1)
    assert found.before == 0
    for tensor in found.tensors:
        assert 0 <= int(tensor.taken.min()) <= int(tensor.taken.max()) < updates
        assert -1e-9 <= float(tensor.age.min()) <= float(tensor.age.max()) <= updates - 1 + 1e-9
    assert 1 - 1e-9 <= effective_size(found.share) <= updates + 1e-9
    assert found.oldest <= updates - 1


@given(st.floats(0.01, 1), st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_an_average_alone_has_its_closed_form(momentum, updates):
    found = provenance([segment(0.0, momentum)], updates)
    ages = torch.arange(updates - 1, -1, -1, dtype=torch.float64)
    expected = momentum * (1 - momentum) ** ages
    expected[0] = (1 - momentum) ** (updates - 1)
    torch.testing.assert_close(found.share, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.expected.share, expected)
    if updates * momentum > 20:
        assert effective_size(found.share) == pytest.approx((2 - momentum) / momentum, rel=1e-3)


def test_ages_of_many_units_are_geometric():
    shapes = {f'{index}.weight': (64, 2) for index in range(64)}
    some = segment(0.8, granularity='channel', shapes=shapes)
    found = provenance([some], 400)
    ages = (399 - found.taken).numpy()
    assert len(ages) == 64 * 64
    observed = [int((ages == age).sum()) for age in range(20)] + [int((ages >= 20).sum())]
    chances = [0.2 * 0.8**age for age in range(20)] + [0.8**20]
    expected = [chance * len(ages) for chance in chances]
    assert stats.chisquare(observed, expected).pvalue > 0.001
    assert effective_size(found.share) == pytest.approx(1.8 / 0.2, rel=0.05)
    assert found.mean_age == pytest.approx(4, rel=0.1)


def test_contents_are_in_the_mean_those_of_the_average_at_the_matched_horizon():
    shapes = {f'{index}.weight': (64, 2) for index in range(64)}
    some = segment(0.7, 0.1, 'channel', shapes)
    found = provenance([some], 500)
    expected = found.expected
    assert found.mean_age == pytest.approx(expected.mean_age, rel=0.02)
    assert expected.mean_age == pytest.approx(0.97 / 0.03, rel=1e-3)
    torch.testing.assert_close(found.share[-100:], expected.share[-100:], rtol=0.2, atol=2e-4)


def test_only_a_sample_of_many_units_is_followed_and_the_rest_is_said():
    shapes = {'a.weight': (3000, 2)}
    found = provenance([segment(0.5, granularity='element', shapes=shapes)], 50, sample=100)
    (tensor,) = found.tensors
    assert tensor.units == 6000 and len(tensor.taken) == 100
    whole = provenance([segment(0.5, granularity='element', shapes=shapes)], 50, sample=6000)
    assert torch.equal(whole.tensors[0].taken[:100], tensor.taken)


def test_skipped_updates_pick_nothing():
    skipped = frozenset(range(20, 30))
    found = provenance([segment(0.1, skipped=skipped)], 30)
    assert int(found.taken.max()) < 20


def test_copies_between_segments_end_the_history():
    first = segment(0.9)
    second = Segment(10, True, total=1000, copied=True, rules=segment(0.9999).rules)
    found = provenance([first, second], 15)
    assert set(found.taken.tolist()) == {9}
    assert float(found.share[9]) == pytest.approx(1)


def test_unit_of_an_average_without_a_momentum_has_its_last_pick_and_no_age():
    some = segment(0.998, granularity='channel')
    (group,) = some.rules
    unknown = replace(some, rules=(group._replace(rule=replace(group.rule, momentum=None)),))
    found, copied = provenance([unknown], 900), provenance([some], 900)
    assert torch.equal(found.taken, copied.taken) and found.oldest > 256
    # What was never picked is from the first update's student.
    assert all(torch.equal(t.age.isnan(), t.taken > 0) for t in found.tensors)
    assert found.share.isnan().any()


def test_updates_between_two_smoothing_steps_pick_nothing():
    assert share_taken(segment(0.1, interval=10), range(11, 20)) == 0
    assert share_taken(segment(0.0, interval=10), range(11, 21)) == pytest.approx(0.1)
