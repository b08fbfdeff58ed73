# SPDX-License-Identifier: Apache-2.0
"""A teacher bound to its student: what every update does to it."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from se_mm.smoothing import (
    GRANULARITIES,
    OptionError,
    Rule,
    Smoother,
    build_rules,
    keep_prob_schedule,
    momentum_schedule,
    pair_modules,
)

SEEDS = 200
UPDATES = 20


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Linear(3, 2)).double()


def smoother_of(
    teacher,
    student,
    keep_prob=0.7,
    momentum=None,
    granularity='tensor',
    overrides=(),
    buffers='copy',
    **options,
):
    rule = Rule(
        keep_prob_schedule('keep_prob', keep_prob),
        None if momentum is None else momentum_schedule('momentum', momentum),
        False,
        granularity,
    )
    rules = build_rules(rule, dict(overrides))
    return Smoother(*pair_modules(teacher, student), rules, buffers, **options)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def randomize(module, generator):
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(1)


def final_teacher(keep_prob, momentum, granularity, seed):
    """The teacher after a given sequence of students, which is the same for every seed."""
    student, teacher = net(0), net(1)
    smoother = smoother_of(teacher, student, keep_prob, momentum, granularity)
    generator = torch.Generator().manual_seed(0)
    for step in range(UPDATES):
        randomize(student, generator)
        smoother.copy() if step == 0 else smoother.update(step, UPDATES, seed)
    return flat(teacher)


def tma_teacher(old_share):
    """The moving average of the same students, worked out on its own."""
    student = net(0)
    generator = torch.Generator().manual_seed(0)
    average = None
    for _ in range(UPDATES):
        randomize(student, generator)
        new = flat(student)
        average = new.clone() if average is None else old_share * average + (1 - old_share) * new
    return average


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('keep_prob, momentum', [(0.8, None), (0.6, 0.25)])
def test_promise_8_mean_over_seeds_is_the_moving_average_of_the_matching_momentum(
    granularity, keep_prob, momentum
):
    # Paper's momentum: SE(p) is TMA(p) in the mean, STS(p, m) is TMA(p + (1 - p) m).
    old_share = keep_prob if momentum is None else keep_prob + (1 - keep_prob) * (1 - momentum)
    teachers = torch.stack(
        [final_teacher(keep_prob, momentum, granularity, seed) for seed in range(SEEDS)]
    ).numpy()
    mean, error = teachers.mean(0), teachers.std(0, ddof=1) / np.sqrt(SEEDS)

    def largest_deviation(share):
        return np.abs((mean - tma_teacher(share).numpy()) / error).max()

    bound = stats.norm.isf(0.001 / (2 * len(mean)))
    assert largest_deviation(old_share) < bound
    # The check would notice a momentum that is wrong by a little.
    assert largest_deviation(old_share - 0.1) > bound
    assert largest_deviation(old_share + 0.1) > bound


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_promise_8_keep_prob_zero_is_the_moving_average_itself(granularity):
    teacher = final_teacher(0.0, 0.25, granularity, seed=3)
    torch.testing.assert_close(teacher, tma_teacher(0.75))


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_promise_8_keep_prob_zero_of_a_spatial_ensemble_is_a_copy(granularity):
    assert torch.equal(final_teacher(0.0, None, granularity, seed=3), tma_teacher(0.0))


def test_promise_2_copy_makes_everything_equal_also_what_is_skipped():
    student, teacher = net(0), net(1)
    randomize(student, torch.Generator().manual_seed(0))
    smoother_of(teacher, student, overrides={'0.': 'skip'}, buffers='skip').copy()
    for name, tensor in student.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], tensor), name


@pytest.mark.parametrize('buffers', ['copy', 'average', 'skip'])
def test_buffers_follow_their_policy(buffers):
    student, teacher = net(0), net(1)
    smoother = smoother_of(teacher, student, 0.0, momentum=0.25, buffers=buffers)
    smoother.copy()
    old = {name: value.clone() for name, value in teacher.named_buffers()}
    randomize(student, torch.Generator().manual_seed(0))
    smoother.update(1, 10, seed=0)
    for name, value in teacher.named_buffers():
        new = student.get_buffer(name)
        if buffers == 'skip':
            assert torch.equal(value, old[name])
        elif buffers == 'copy' or not value.is_floating_point():
            assert torch.equal(value, new)
        else:
            torch.testing.assert_close(value, 0.75 * old[name] + 0.25 * new)


def test_averaged_buffers_are_picked_with_their_layer():
    student, teacher = net(0), net(1)
    smoother = smoother_of(teacher, student, 0.5, granularity='layer', buffers='average')
    for step in range(1, 30):
        old = {name: value.clone() for name, value in teacher.state_dict().items()}
        randomize(student, torch.Generator().manual_seed(step))
        smoother.update(step, 30, seed=0)
        moved = {
            name: not torch.equal(value, old[name])
            for name, value in teacher.state_dict().items()
            if name.startswith('1.') and value.is_floating_point()
        }
        assert len(moved) == 4
        assert len(set(moved.values())) == 1


def test_overrides_copy_skip_and_slow_down_what_they_name():
    student, teacher = net(0), net(1)
    overrides = {'0': 'skip', '1': 'copy', '2.weight': dict(keep_prob=0.0, momentum=0.5)}
    smoother = smoother_of(
        teacher, student, 0.999, momentum=0.1, overrides=overrides, buffers='skip'
    )
    smoother.copy()
    old = {name: value.clone() for name, value in teacher.state_dict().items()}
    randomize(student, torch.Generator().manual_seed(0))
    smoother.update(1, 10, seed=0)
    for name, value in teacher.state_dict().items():
        new = student.state_dict()[name]
        if name.startswith('1.'):
            assert torch.equal(value, new), name
        elif name == '2.weight':
            torch.testing.assert_close(value, (old[name] + new) / 2)
        else:
            assert torch.equal(value, old[name]), name


def test_override_that_matches_nothing_is_refused_when_bound():
    with pytest.raises(OptionError, match=r"overrides\['nek'\] matches no tensor"):
        smoother_of(net(0), net(1), overrides={'nek': 'copy'})


def test_promise_4_an_update_walks_no_modules(monkeypatch):
    student, teacher = net(0), net(1)
    smoother = smoother_of(teacher, student, 0.5, momentum=0.1, buffers='average')

    def walk(*args, **kwargs):
        raise AssertionError('an update walked over the modules')

    for name in [
        'modules',
        'named_modules',
        'children',
        'named_children',
        'parameters',
        'named_parameters',
        'buffers',
        'named_buffers',
        'state_dict',
        '_named_members',
    ]:
        monkeypatch.setattr(nn.Module, name, walk)
    before = teacher[0].weight.clone()
    for step in range(10):
        smoother.update(step, 10, seed=0)
    assert not torch.equal(teacher[0].weight, before)


def test_student_is_never_written():
    student, teacher = net(0), net(1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    for granularity in GRANULARITIES:
        smoother = smoother_of(teacher, student, 0.5, 0.1, granularity, buffers='average')
        smoother.copy()
        for step in range(5):
            smoother.update(step, 5, seed=0)
    assert all(torch.equal(student.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_average_of_a_low_precision_is_that_of_float32_rounded(dtype, granularity):
    # A step of 0.001 from 1 towards 1.5 is rounded to nothing in either dtype.
    students = [net(0).to(dtype), net(0).float()]
    teachers = [net(0).to(dtype), net(0).float()]
    smoothers = [
        smoother_of(teacher, student, 0.5, 0.0004, granularity)
        for teacher, student in zip(teachers, students)
    ]
    with torch.no_grad():
        for student in students:
            for parameter in student.parameters():
                parameter.fill_(1)
    for smoother in smoothers:
        smoother.copy()
    with torch.no_grad():
        for student in students:
            for parameter in student.parameters():
                parameter.fill_(1.5)
    for step in range(1, 300):
        for smoother in smoothers:
            smoother.update(step, 300, seed=0)
    low, full = map(flat, teachers)
    assert low.dtype == dtype
    assert (full > 1.02).all()
    assert torch.equal(low, full.to(dtype))


def test_average_of_a_low_precision_can_be_left_in_it():
    student, teacher = net(0).bfloat16(), net(0).bfloat16()
    smoother = smoother_of(teacher, student, 0.0, 0.0004, fp32_teacher=False)
    smoother.copy()
    before = flat(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.5)
    for step in range(1, 50):
        smoother.update(step, 50, seed=0)
    assert smoother.fp32 == {}
    assert torch.equal(flat(teacher), before)


def test_copies_need_no_float32():
    student, teacher = net(0).bfloat16(), net(1).bfloat16()
    assert smoother_of(teacher, student, 0.5).fp32 == {}


def test_averages_that_are_not_given_are_taken_from_the_teacher():
    student, teacher = net(0).bfloat16(), net(1).bfloat16()
    smoother = smoother_of(teacher, student, 0.5, 0.1)
    given = {'0.weight': torch.full((3, 2, 2, 2), 0.3)}
    with torch.no_grad():
        teacher[2].weight.fill_(7)
    smoother.restore(given)
    assert torch.equal(smoother.fp32['0.weight'], given['0.weight'])
    assert (smoother.fp32['2.weight'] == 7).all()
