# SPDX-License-Identifier: Apache-2.0
"""SpatialEnsemble, the teacher for any PyTorch loop."""

import copy
import doctest
import importlib
import io
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from se_mm.smoothing import GRANULARITIES, OptionError, SpatialEnsemble, TeacherFault

OPTIONS = [
    dict(keep_prob=0.6),
    dict(keep_prob=0.6, momentum=0.2),
    dict(keep_prob=0.6, momentum=0.2, granularity='channel', interval=2),
    dict(keep_prob=0.6, momentum=0.02, granularity='element', buffers='average'),
    dict(keep_prob=dict(type='cosine', start=0.1, end=0.9), total_updates=12, granularity='layer'),
    dict(keep_prob=0.5, momentum=0.1, overrides={'2': 'copy', '1.weight': dict(keep_prob=0.0)}),
]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def move(student, step):
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in (*student.parameters(), *student.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype))


def run(teacher, student, steps, wrapped=None):
    """Updates, each after a step of the student that its number determines."""
    for step in steps:
        move(student, step)
        teacher.update(student if wrapped is None else wrapped)
    return teacher


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    tensors = [name for name in one if isinstance(one[name], torch.Tensor)]
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in tensors)


def ids(options):
    return '-'.join(str(value) for value in options.values())


def test_promise_2_it_starts_as_a_copy_of_its_student_in_evaluation_mode():
    student = net()
    teacher = SpatialEnsemble(student, keep_prob=0.5)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert student.training and all(p.requires_grad for p in student.parameters())
    inputs = torch.randn(5, 3)
    assert torch.equal(teacher(inputs), student.eval()(inputs))
    assert teacher.step == 0


@pytest.mark.parametrize('options', OPTIONS, ids=ids)
def test_promise_2_first_update_copies_everything(options):
    student = net()
    teacher = run(SpatialEnsemble(student, **options), student, range(1))
    for name, value in student.state_dict().items():
        assert torch.equal(teacher.module.state_dict()[name], value)
    run(teacher, student, range(1, 3))
    assert teacher.step == 3
    assert any(
        not torch.equal(teacher.module.state_dict()[name], value)
        for name, value in student.state_dict().items()
    )


@pytest.mark.parametrize('options', OPTIONS, ids=ids)
@pytest.mark.parametrize('way', ['state_dict', 'file', 'deepcopy', 'pickle'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_continued_training_is_exactly_the_uninterrupted_one(options, way, dtype):
    student = net().to(dtype)
    whole = run(SpatialEnsemble(student, **options, seed=5), student, range(12))

    student = net().to(dtype)
    first = run(SpatialEnsemble(student, **options, seed=5), student, range(7))
    if way == 'deepcopy':
        second = copy.deepcopy(first)
    elif way == 'pickle':
        second = pickle.loads(pickle.dumps(first))
    else:
        # The seed is in the state dict.
        second = SpatialEnsemble(net(3).to(dtype), **options, seed=1)
        state = first.state_dict()
        if way == 'file':
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        second.load_state_dict(state)
    before = copy.deepcopy(first.state_dict())
    run(second, student, range(7, 12))
    assert second.step == whole.step == 12
    assert same(second, whole)
    for name, average in whole.smoother.fp32.items():
        assert torch.equal(second.smoother.fp32[name], average)
    # The one that was copied is left as it was.
    assert all(
        torch.equal(before[name], value)
        for name, value in first.state_dict().items()
        if isinstance(value, torch.Tensor)
    )


@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from(OPTIONS),
    st.lists(st.sampled_from(['load', 'copy', 'pickle']), max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_any_chain_of_copies_continues_exactly(before, after, options, chain):
    student = net()
    whole = run(SpatialEnsemble(student, **options), student, range(before + after))
    student = net()
    teacher = run(SpatialEnsemble(student, **options), student, range(before))
    for way in chain:
        if way == 'load':
            state, teacher = teacher.state_dict(), SpatialEnsemble(net(3), **options)
            teacher.load_state_dict(state)
        else:
            teacher = {'copy': copy.deepcopy, 'pickle': lambda t: pickle.loads(pickle.dumps(t))}[
                way
            ](teacher)
    assert same(run(teacher, student, range(before, before + after)), whole)


def test_loading_into_a_teacher_that_was_moved_forgets_its_float32_averages():
    student = net().bfloat16()
    first = run(SpatialEnsemble(student, 0.5, 0.01), student, range(5))
    state = copy.deepcopy(first.state_dict())
    student_then = copy.deepcopy(student)
    run(first, student, range(5, 9))
    first.load_state_dict(state)
    assert first.step == 5
    fresh = SpatialEnsemble(net(1).bfloat16(), 0.5, 0.01)
    fresh.load_state_dict(state)
    for teacher in (first, fresh):
        student = copy.deepcopy(student_then)
        run(teacher, student, range(5, 9))
    assert same(first, fresh)
    assert all(torch.equal(first.smoother.fp32[n], a) for n, a in fresh.smoother.fp32.items())


def test_low_precision_teacher_is_averaged_in_float32():
    # A step of 0.001 from 1 towards 1.5 is rounded to nothing in bfloat16.
    student = nn.Linear(3, 2).bfloat16()
    teachers = [
        SpatialEnsemble(student, 0.0, 0.001, fp32_teacher=fp32_teacher)
        for fp32_teacher in (True, False)
    ]
    for value, updates in ((1.0, 1), (1.5, 200)):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.fill_(value)
        for _ in range(updates):
            for teacher in teachers:
                teacher.update(student)
    expected = 1.5 - 0.5 * 0.999**200
    assert float(teachers[0].module.weight[0, 0]) == pytest.approx(expected, rel=2**-8)
    assert (teachers[1].module.weight == 1).all()


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize(
    'wrap',
    [
        nn.DataParallel,
        lambda student: torch.compile(student, backend='eager'),
        lambda student: nn.DataParallel(torch.compile(student, backend='eager')),
    ],
    ids=['data parallel', 'compiled', 'both'],
)
def test_wrapped_students_are_followed_like_plain_ones(granularity, wrap):
    options = dict(keep_prob=0.5, momentum=0.2, granularity=granularity)
    student = net()
    plain = run(SpatialEnsemble(student, **options), student, range(6))
    student = net()
    wrapped = wrap(student)
    ours = run(SpatialEnsemble(wrapped, **options), student, range(6), wrapped)
    assert type(ours.module) is nn.Sequential
    assert same(ours, plain)


def test_student_in_distributed_data_parallel_is_followed(tmp_path):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        student = net()
        plain = run(SpatialEnsemble(student, 0.5, 0.2), student, range(4))
        student = net()
        wrapped = nn.parallel.DistributedDataParallel(student)
        ours = run(SpatialEnsemble(wrapped, 0.5, 0.2), student, range(4), wrapped)
        assert type(ours.module) is nn.Sequential
        assert same(ours, plain)
    finally:
        torch.distributed.destroy_process_group()


def test_student_whose_layers_are_compiled_is_followed():
    student = net()
    plain = run(SpatialEnsemble(student, 0.5, 0.2), student, range(4))
    student = net()
    teacher = SpatialEnsemble(student, 0.5, 0.2)
    student[0] = torch.compile(student[0], backend='eager')
    assert same(run(teacher, student, range(4)), plain)


def test_teacher_can_be_kept_on_another_device():
    student = net()
    teacher = run(SpatialEnsemble(student, 0.5, 0.2, device='cpu'), student, range(4))
    plain = net()
    assert same(teacher, run(SpatialEnsemble(plain, 0.5, 0.2), plain, range(4)))
    assert all(tensor.device.type == 'cpu' for tensor in teacher.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_teacher_on_the_cpu_follows_a_student_on_a_gpu():
    student = net().cuda()
    teacher = SpatialEnsemble(student, 0.5, 0.2, device='cpu')
    for step in range(4):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(step)
        teacher.update(student)
    assert all(tensor.device.type == 'cpu' for tensor in teacher.parameters())
    assert teacher.step == 4


def test_interval_is_counted_from_the_first_update():
    student = net()
    teacher = SpatialEnsemble(student, 0.0, interval=3)
    moved = []
    for step in range(8):
        before = teacher.module[0].weight.clone()
        run(teacher, student, [step])
        moved.append(not torch.equal(teacher.module[0].weight, before))
        # Statistics follow at every step.
        assert torch.equal(teacher.module[1].running_mean, student[1].running_mean)
    assert moved == [True, False, False, True, False, False, True, False]


def test_copying_makes_it_the_student_and_counts_nothing():
    student = net()
    teacher = run(SpatialEnsemble(student, 0.5, 0.1), student, range(4))
    move(student, 99)
    teacher.copy(student)
    assert teacher.step == 4
    assert all(map(torch.equal, teacher.module.parameters(), student.parameters()))


def test_promise_1_global_random_generators_are_left_alone():
    student = net()
    teacher = SpatialEnsemble(student, 0.5, granularity='element')
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for _ in range(3):
        teacher.update(student)
    assert torch.equal(torch.get_rng_state(), before)


def test_promise_1_two_teachers_of_one_seed_are_equal_and_of_two_are_not():
    student = net()
    teachers = [SpatialEnsemble(student, 0.5, seed=seed) for seed in (1, 1, 2)]
    for step in range(6):
        move(student, step)
        for teacher in teachers:
            teacher.update(student)
    assert same(teachers[0], teachers[1])
    assert not same(teachers[0], teachers[2])


def test_promise_6_new_head_of_a_trained_student_is_followed_and_another_shape_is_one_line():
    student = net()
    teacher = run(SpatialEnsemble(student, 0.0), student, range(3))
    student[2] = nn.Linear(4, 2)
    run(teacher, student, [3])
    assert torch.equal(teacher.module[2].weight, student[2].weight)
    student[2] = nn.Linear(4, 7)
    with pytest.raises(TeacherFault, match=r"'2.weight' is \(2, 4\) .* and \(7, 4\) in the stude"):
        teacher.update(student)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(keep_prob=1.5), r'keep_prob must be a number in \[0, 1\), got 1.5'),
        (dict(momentum=0), r'momentum must be a number in \(0, 1\], got 0'),
        (dict(momentum=None), r'momentum must be a number in \(0, 1\] or a schedule, got None'),
        (dict(momentum=None, total_updates=9), 'momentum must be a number .* got None'),
        (dict(keep_prob=dict(type='linear', start=0, end=0.5)), 'total_updates must be set'),
        (dict(total_updates=0), 'total_updates must be an integer >= 1, got 0'),
        (dict(overrides={'nothing': 'copy'}), r"overrides\['nothing'\] must match a tensor"),
    ],
    ids=str,
)
def test_wrong_option_is_refused_by_one_line(options, message):
    with pytest.raises(OptionError, match=message) as error:
        SpatialEnsemble(net(), **options)
    assert '\n' not in str(error.value)


def test_docstring_example_holds():
    assert doctest.testmod(importlib.import_module('se_mm.smoothing.ensemble')).failed == 0


def test_it_is_imported_without_openmmlab():
    code = (
        'import sys\n'
        "sys.modules.update(dict.fromkeys(['mmengine', 'mmcv', 'mmpretrain', 'mmdet']))\n"
        'from se_mm.smoothing import SpatialEnsemble\n'
        'import torch\n'
        'net = torch.nn.Linear(2, 2)\n'
        'SpatialEnsemble(net).update(net)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_copy_after_loading_forgets_the_average_that_was_loaded():
    student = nn.Linear(4, 4).bfloat16()
    teacher = SpatialEnsemble(student, keep_prob=0.0, momentum=0.01)
    for _ in range(3):
        teacher.update(student)
    teacher.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        student.weight.add_(8.0)
    teacher.copy(student)
    teacher.update(student)
    assert torch.equal(teacher.module.weight, student.weight)


def test_count_of_updates_by_position_is_refused():
    # timm's update(model, num_updates) would otherwise set the interval, and move it once in many.
    student = nn.Linear(4, 4)
    with pytest.raises(TypeError, match='positional'):
        SpatialEnsemble(student).update(student, 100)
