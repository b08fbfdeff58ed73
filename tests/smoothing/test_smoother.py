# SPDX-License-Identifier: Apache-2.0
"""A teacher bound to its student: what every update does to it."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from se_mm.smoothing import GRANULARITIES, OptionError, Settings, Smoother, TeacherFault, tensors
from se_mm.smoothing import smoother as smoother_module
from se_mm.smoothing.tensors import named_tensors

SEEDS = 200
UPDATES = 20


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Linear(3, 2)).double()


def smoother_of(teacher, keep_prob=0.7, momentum=1.0, granularity='tensor', **options):
    return Smoother(teacher, Settings(keep_prob, momentum, granularity=granularity, **options))


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
    smoother = smoother_of(teacher, keep_prob, momentum, granularity)
    generator = torch.Generator().manual_seed(0)
    for step in range(UPDATES):
        randomize(student, generator)
        smoother.copy(student) if step == 0 else smoother.update(student, step, UPDATES, seed)
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
@pytest.mark.parametrize('keep_prob, momentum', [(0.8, 1.0), (0.6, 0.25)])
def test_promise_8_mean_over_seeds_is_the_moving_average_of_the_matching_momentum(
    granularity, keep_prob, momentum
):
    # Paper's momentum: SE(p) is TMA(p) in the mean, STS(p, m) is TMA(p + (1 - p) m).
    old_share = keep_prob + (1 - keep_prob) * (1 - momentum)
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
    assert torch.equal(final_teacher(0.0, 1.0, granularity, seed=3), tma_teacher(0.0))


def test_promise_2_copy_makes_everything_equal_also_what_is_skipped():
    student, teacher = net(0), net(1)
    randomize(student, torch.Generator().manual_seed(0))
    smoother_of(teacher, overrides={'0.': 'skip'}, buffers='skip').copy(student)
    for name, tensor in student.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], tensor), name


@pytest.mark.parametrize('buffers', ['copy', 'average_norms', 'average', 'skip'])
def test_buffers_follow_their_policy(buffers):
    student, teacher = net(0), net(1)
    for module in (student, teacher):
        module.register_buffer('scale', torch.ones(2, dtype=torch.double))
    smoother = smoother_of(teacher, 0.0, momentum=0.25, buffers=buffers)
    smoother.copy(student)
    old = {name: value.clone() for name, value in teacher.named_buffers()}
    randomize(student, torch.Generator().manual_seed(0))
    smoother.update(student, 1, 10, seed=0)
    for name, value in teacher.named_buffers():
        new = student.get_buffer(name)
        if buffers == 'skip':
            assert torch.equal(value, old[name])
        elif value.is_floating_point() and (
            buffers == 'average' or (buffers == 'average_norms' and name != 'scale')
        ):
            torch.testing.assert_close(value, 0.75 * old[name] + 0.25 * new)
        else:
            assert torch.equal(value, new)


def test_averaged_buffers_are_picked_with_their_layer():
    student, teacher = net(0), net(1)
    smoother = smoother_of(teacher, 0.5, granularity='layer', buffers='average')
    for step in range(1, 30):
        old = {name: value.clone() for name, value in teacher.state_dict().items()}
        randomize(student, torch.Generator().manual_seed(step))
        smoother.update(student, step, 30, seed=0)
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
    smoother = smoother_of(teacher, 0.999, 0.1, overrides=overrides, buffers='skip')
    smoother.copy(student)
    old = {name: value.clone() for name, value in teacher.state_dict().items()}
    randomize(student, torch.Generator().manual_seed(0))
    smoother.update(student, 1, 10, seed=0)
    for name, value in teacher.state_dict().items():
        new = student.state_dict()[name]
        if name.startswith('1.'):
            assert torch.equal(value, new), name
        elif name == '2.weight':
            torch.testing.assert_close(value, (old[name] + new) / 2)
        else:
            assert torch.equal(value, old[name]), name


def test_override_that_matches_nothing_is_refused_when_bound():
    with pytest.raises(OptionError, match=r"overrides\['nek'\] must match a tensor of the student"):
        smoother_of(net(0), overrides={'nek': 'copy'}).bind(net(1))


def test_promise_4_an_update_walks_no_modules(monkeypatch):
    student, teacher = net(0), net(1)
    smoother = smoother_of(teacher, 0.5, momentum=0.1, buffers='average')
    smoother.bind(student)
    smoother.update(student, 1, 10, seed=0)  # Looks for the tensors.

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
    for module in (tensors, smoother_module):
        monkeypatch.setattr(module, 'slots', walk)
    before = teacher[0].weight.clone()
    for step in range(2, 12):
        smoother.update(student, step, 10, seed=0)
    assert not torch.equal(teacher[0].weight, before)


def test_student_is_never_written():
    student, teacher = net(0), net(1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    for granularity in GRANULARITIES:
        smoother = smoother_of(teacher, 0.5, 0.1, granularity, buffers='average')
        smoother.copy(student)
        for step in range(5):
            smoother.update(student, step, 5, seed=0)
    assert all(torch.equal(student.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_average_of_a_low_precision_is_that_of_float32_rounded(dtype, granularity):
    # A step of 0.001 from 1 towards 1.5 is rounded to nothing in either dtype.
    students = [net(0).to(dtype), net(0).float()]
    teachers = [net(0).to(dtype), net(0).float()]
    smoothers = [smoother_of(teacher, 0.5, 0.0004, granularity) for teacher in teachers]
    with torch.no_grad():
        for student in students:
            for parameter in student.parameters():
                parameter.fill_(1)
    for smoother, student in zip(smoothers, students):
        smoother.copy(student)
    with torch.no_grad():
        for student in students:
            for parameter in student.parameters():
                parameter.fill_(1.5)
    for step in range(1, 300):
        for smoother, student in zip(smoothers, students):
            smoother.update(student, step, 300, seed=0)
    low, full = map(flat, teachers)
    assert low.dtype == dtype
    assert (full > 1.02).all()
    assert torch.equal(low, full.to(dtype))


def test_average_of_a_low_precision_can_be_left_in_it():
    student, teacher = net(0).bfloat16(), net(0).bfloat16()
    smoother = smoother_of(teacher, 0.0, 0.0004, fp32_teacher=False)
    smoother.copy(student)
    before = flat(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.5)
    for step in range(1, 50):
        smoother.update(student, step, 50, seed=0)
    assert smoother.fp32 == {}
    assert torch.equal(flat(teacher), before)


def test_copies_need_no_float32():
    student, teacher = net(0).bfloat16(), net(1).bfloat16()
    smoother = smoother_of(teacher, 0.5)
    smoother.update(student, 1, 10, seed=0)
    assert smoother.fp32 == {}


def test_averages_that_are_not_given_are_taken_from_the_teacher():
    student, teacher = net(0).bfloat16(), net(1).bfloat16()
    smoother = smoother_of(teacher, 0.5, 0.1)
    given = {'0.weight': torch.full((3, 2, 2, 2), 0.3)}
    with torch.no_grad():
        teacher[2].weight.fill_(7)
    smoother.restore(given)
    smoother.follow(student)
    assert torch.equal(smoother.fp32['0.weight'], given['0.weight'])
    assert (smoother.fp32['2.weight'] == 7).all()


def test_following_copies_what_is_copied_at_every_update_and_smooths_nothing():
    student, teacher = net(0), net(1)
    randomize(student, torch.Generator().manual_seed(0))
    before = flat(teacher)
    smoother_of(teacher, overrides={'2.bias': 'copy'}).follow(student)
    assert torch.equal(flat(teacher)[:-2], before[:-2])
    assert torch.equal(teacher[2].bias, student[2].bias)
    assert all(map(torch.equal, teacher.buffers(), student.buffers()))


def replaced_head(module):
    """A new head, as a model has that gets other weights for its last layer."""
    module[2] = nn.Linear(3, 2).double()


def reassigned_buffer(module):
    """A new tensor under the name of a buffer, as code does that assigns in its forward."""
    module[1].running_mean = torch.full((3,), 5.0, dtype=torch.float64)


def replaced_data(module):
    for parameter in module.parameters():
        parameter.data = parameter.data + 1


def other_precision_and_back(module):
    module.half().float().double()


def wrapped_layer(module):
    """A layer inside one that has its tensors under the same names, as LoRA's layers have."""
    layer = nn.Linear(3, 2).double()
    layer.weight, layer.bias = module[2].weight, module[2].bias
    layer.added = nn.Linear(3, 1)
    module[2] = layer


CHANGES = [
    replaced_head,
    reassigned_buffer,
    replaced_data,
    other_precision_and_back,
    wrapped_layer,
]


@pytest.mark.parametrize('who', ['student', 'teacher'])
@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize('momentum', [1.0, 0.25])
def test_promise_6_tensor_that_is_replaced_is_followed_from_the_next_update_on(
    change, momentum, who
):
    student, teacher = net(0), net(1)
    smoother = smoother_of(teacher, 0.0, momentum)
    smoother.copy(student)
    smoother.update(student, 1, 10, seed=0)
    change({'student': student, 'teacher': teacher}[who])
    randomize(student, torch.Generator().manual_seed(0))
    old = {name: value.clone() for name, value in named_tensors(teacher).items()}
    smoother.update(student, 2, 10, seed=0)
    for name, value in teacher.named_parameters():
        if 'added' not in name:
            new = student.get_parameter(name)
            torch.testing.assert_close(value, old[name].lerp(new, momentum))
    for name, value in teacher.named_buffers():
        assert torch.equal(value, student.get_buffer(name)), name


def test_promise_6_float32_averages_outlive_tensors_that_are_replaced():
    student, teacher = net(0).bfloat16(), net(0).bfloat16()
    smoother = smoother_of(teacher, 0.0, 0.001)
    smoother.copy(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.fill_(1.5)
    smoother.update(student, 1, 10, seed=0)
    before = smoother.fp32['0.weight'].clone()
    replaced_data(student)
    smoother.update(student, 2, 10, seed=0)
    torch.testing.assert_close(smoother.fp32['0.weight'], before.lerp(torch.tensor(2.5), 0.001))


def test_promise_6_shared_order_of_the_tensors_does_not_matter():
    teacher, student = nn.Module(), nn.Module()
    teacher.a, teacher.b = nn.Linear(2, 2), nn.Linear(2, 2)
    student.b, student.a = nn.Linear(2, 2), nn.Linear(2, 2)
    smoother = smoother_of(teacher)
    smoother.bind(student)
    assert smoother.named().keys() == {'a.weight', 'a.bias', 'b.weight', 'b.bias'}
    for name, pair in smoother.named().items():
        assert pair.teacher is teacher.get_parameter(name)
        assert pair.student is student.get_parameter(name)


def message_of(fault, call):
    with pytest.raises(fault) as error:
        call()
    assert '\n' not in str(error.value)
    return str(error.value)


def test_promise_6_tensor_without_student_is_an_error_naming_it():
    teacher, student = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2, bias=False))
    smoother = Smoother(teacher, Settings(), rename=lambda name: f'backbone.{name}')
    said = message_of(OptionError, lambda: smoother.bind(student))
    assert "must have a tensor 'backbone.0.bias'" in said and '(2,)' in said


def test_promise_6_buffer_without_student_is_an_error():
    student = nn.BatchNorm1d(3, track_running_stats=False)
    said = message_of(OptionError, lambda: smoother_of(nn.BatchNorm1d(3)).bind(student))
    assert "'running_mean'" in said


def test_promise_6_other_shape_is_an_error_naming_both_and_nothing_is_read():
    said = message_of(OptionError, lambda: smoother_of(nn.Linear(3, 2)).bind(nn.Linear(2, 3)))
    assert "'weight' is (2, 3) in the teacher and (3, 2) in the student" in said


@pytest.mark.parametrize('who', ['student', 'teacher'])
@pytest.mark.parametrize(
    'replacement', [lambda old: old[:1], lambda old: old.t().clone(), lambda old: old.new_zeros(0)]
)
@pytest.mark.parametrize('by', ['data', 'parameter'])
def test_promise_6_other_shape_later_is_an_error_and_never_a_read_out_of_bounds(
    who, replacement, by
):
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2)
    smoother = smoother_of(teacher, 0.0)
    smoother.copy(student)
    smoother.update(student, 1, 10, seed=0)
    changed = {'student': student, 'teacher': teacher}[who]
    before = teacher.weight.detach().clone()
    if by == 'data':
        changed.weight.data = replacement(changed.weight.data)
    else:
        changed.weight = nn.Parameter(replacement(changed.weight.data))
    for call in (
        lambda: smoother.update(student, 2, 10, seed=0),
        lambda: smoother.copy(student),
        lambda: smoother.follow(student),
    ):
        said = message_of(TeacherFault, call)
        assert "'weight'" in said
        assert str(tuple(student.weight.shape)) in said and str(tuple(teacher.weight.shape)) in said
    if who == 'student':
        assert torch.equal(teacher.weight, before)


def test_promise_6_tensor_that_is_gone_is_an_error_naming_it_and_one_that_is_back_is_followed():
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2)
    smoother = smoother_of(teacher, 0.0)
    smoother.copy(student)
    student.bias, bias = None, student.bias
    said = message_of(TeacherFault, lambda: smoother.update(student, 1, 10, seed=0))
    assert "must have a tensor 'bias'" in said
    student.bias = nn.Parameter(bias + 1)
    smoother.update(student, 1, 10, seed=0)
    assert torch.equal(teacher.bias, student.bias)
    teacher.bias = None
    said = message_of(TeacherFault, lambda: smoother.update(student, 1, 10, seed=0))
    assert "must keep its tensor 'bias'" in said


def test_student_may_have_more_than_its_teacher():
    student = nn.Sequential(*net(), nn.Linear(5, 5))
    smoother = smoother_of(net(1))
    smoother.bind(student)
    assert len(smoother.named()) == 6


def test_tied_tensor_is_paired_once():
    def tied():
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    smoother = smoother_of(tied())
    smoother.bind(tied())
    assert set(smoother.named()) == {'0.weight', '0.bias', '1.bias'}


def test_compiled_and_wrapped_students_are_paired_by_their_plain_names():
    inner, teacher = net(0), net(1)
    for student in (
        torch.compile(inner, backend='eager'),
        nn.DataParallel(inner),
        nn.DataParallel(torch.compile(inner, backend='eager')),
    ):
        smoother = smoother_of(teacher, 0.0)
        smoother.copy(student)
        randomize(inner, torch.Generator().manual_seed(0))
        smoother.update(student, 1, 10, seed=0)
        assert torch.equal(flat(teacher), flat(inner))


def test_promise_10_tensors_that_are_shared_are_left_as_they_are():
    student, teacher = net(0), net(1)
    teacher[0] = student[0]
    smoother = smoother_of(teacher, 0.0, 0.25)
    smoother.copy(student)
    before = student[0].weight.detach().clone()
    smoother.update(student, 1, 10, seed=0)
    assert smoother.shared == ['0.weight', '0.bias']
    assert teacher[0].weight is student[0].weight
    assert torch.equal(student[0].weight, before) and student[0].weight.requires_grad


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_equal_infinities_of_averaged_buffers_stay(granularity):
    mask = torch.full((3, 3), -torch.inf, dtype=torch.float64).triu(1)
    student, teacher = net(0), net(1)
    for module in (student, teacher):
        module.register_buffer('mask', mask.clone())
    smoother = smoother_of(teacher, 0.5, 0.1, granularity, buffers='average')
    smoother.copy(student)
    for step in range(1, 10):
        smoother.update(student, step, 10, seed=0)
    assert torch.equal(teacher.mask, mask)


def test_teacher_and_student_may_be_on_the_meta_device():
    with torch.device('meta'):
        student, teacher = net(0), net(1)
    smoother = smoother_of(teacher, granularity='channel')
    smoother.bind(student)
    assert len(smoother.named()) == 6


def test_network_without_parameters_or_without_any_that_move_is_refused():
    with pytest.raises(OptionError, match='and ReLU has none'):
        smoother_of(nn.ReLU()).bind(nn.ReLU())
    with pytest.raises(OptionError, match='which skips all 6'):
        smoother_of(net(0), overrides={'.': 'skip'}).bind(net(1))


def test_complex_and_integer_parameters_are_moved_too():
    def odd(value):
        module = nn.Linear(2, 2)
        module.phase = nn.Parameter(torch.full((3,), value, dtype=torch.complex64))
        module.count = nn.Parameter(torch.full((3,), int(value)), requires_grad=False)
        return module

    student, teacher = odd(3.0), odd(1.0)
    smoother = smoother_of(teacher, 0.0, 0.5)
    smoother.update(student, 1, 10, seed=0)
    assert torch.equal(teacher.phase.data, torch.full((3,), 2.0, dtype=torch.complex64))
    assert teacher.count.tolist() == [3, 3, 3]


def test_sparse_buffers_are_copied():
    student, teacher = nn.Linear(2, 2), nn.Linear(2, 2)
    for module, value in ((student, 2.0), (teacher, 1.0)):
        module.register_buffer('graph', (torch.eye(3) * value).to_sparse())
    smoother = smoother_of(teacher, 0.0, 0.5)
    for step in (1, 2):
        smoother.update(student, step, 10, seed=0)
    assert torch.equal(teacher.graph.to_dense(), 2 * torch.eye(3))


def test_copy_of_a_smoother_binds_to_its_own_teacher():
    student, teacher = net(0), net(1)
    smoother = smoother_of(teacher, 0.0)
    smoother.copy(student)
    again = copy.deepcopy(smoother)
    randomize(student, torch.Generator().manual_seed(0))
    before = flat(teacher)
    again.update(student, 1, 10, seed=0)
    assert torch.equal(flat(teacher), before)
    assert torch.equal(flat(again.teacher), flat(student))


def test_promise_4_a_replaced_buffer_needs_no_walk_over_the_model(monkeypatch):
    student = nn.BatchNorm1d(3)
    smoother = smoother_of(copy.deepcopy(student))
    smoother.copy(student)
    monkeypatch.setattr(smoother_module, 'reshard', lambda *_: pytest.fail('it was walked over'))
    student.running_mean = torch.ones(3)
    smoother.update(student, 1, 2, seed=0)
    assert torch.equal(smoother.teacher.running_mean, student.running_mean)
