# SPDX-License-Identifier: Apache-2.0
"""Every way of an update writes what the plain one does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.smoothing import GRANULARITIES, Pair, Units, draw_picks, fused, update
from se_mm.smoothing.plan import Plan

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
needs_triton = pytest.mark.skipif(
    fused.cuda_kernel is None or fused.cuda_kernel.triton.__version__ < '3',
    reason="needs Triton 3: before, it has neither interpreter nor today's compiler",
)
needs_compiler = pytest.mark.skipif(not shutil.which('cc'), reason='needs a C compiler')


@st.composite
def shapes(draw, most=5000):
    """Shapes of up to five dimensions, small and such that they fill several blocks."""
    dims = draw(st.integers(0, 5))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(dims))
    return (draw(st.integers(1, most)),) if dims == 1 else shape


@st.composite
def pairs(draw, dtypes=FLOATS, most=5000):
    """Pairs of one dtype each for teachers and students, in the memory formats that there are."""
    teacher_dtype, student_dtype = draw(st.sampled_from(dtypes)), draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    result = []
    for index, shape in enumerate(draw(st.lists(shapes(most), min_size=1, max_size=8))):
        tensors = []
        for dtype in (teacher_dtype, student_dtype):
            tensor = torch.randn(shape, generator=generator).to(dtype)
            layout = draw(st.sampled_from(['contiguous', 'channels_last', 'transposed', 'strided']))
            if layout == 'channels_last' and tensor.dim() in (4, 5):
                last = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
                tensor = tensor.contiguous(memory_format=last)
            elif layout == 'transposed' and tensor.dim() > 1:
                tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
            elif layout == 'strided':
                tensor = torch.stack([tensor, tensor], -1)[..., 0]
            tensors.append(tensor)
        result.append(Pair(f'block{index // 2}.p{index}', *tensors))
    return result


def bits(tensor):
    return tensor.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)


def assert_as_plain(way, made, granularity, seed, step, keep_prob, average):
    """``way(units).update`` and the plain one leave the same teachers."""
    plain = [Pair(pair.name, pair.teacher.clone(), pair.student) for pair in made]
    before = [pair.teacher.clone() for pair in made]
    picks = draw_picks(Units(plain, granularity), seed, step, keep_prob)
    update(plain, picks, average)
    way(Units(made, granularity)).update(seed, step, keep_prob, average)
    for pair, expected, pick, old in zip(made, plain, picks, before):
        if average in (None, 1.0):
            assert torch.equal(bits(pair.teacher), bits(expected.teacher))
            continue
        kept = ~torch.as_tensor(pick).expand(old.shape)
        assert torch.equal(bits(pair.teacher[kept]), bits(old[kept]))
        larger = torch.maximum(old.abs(), pair.student.to(old).abs()).double()
        distance = (pair.teacher.double() - expected.teacher.double()).abs()
        assert (distance <= 2 * torch.finfo(old.dtype).eps * larger).all()


@pytest.mark.parametrize('granularity', GRANULARITIES)
@given(
    made=pairs(),
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6),
    keep_prob=st.sampled_from([0.0, 0.3, 0.7, 0.99]),
    average=st.sampled_from([None, 0.001, 0.3, 0.8, 1.0]),
)
@settings(max_examples=60)
def test_planned_update_is_the_plain_one(granularity, made, seed, step, keep_prob, average):
    assert_as_plain(Plan, made, granularity, seed, step, keep_prob, average)


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('average', [None, 0.01])
def test_tensors_of_many_blocks_are_updated_whole(granularity, average):
    made = [
        Pair(f'p{index}', torch.randn(shape), torch.randn(shape))
        for index, shape in enumerate([(70_000,), (3, 100_001), (700, 300), (1, 200_000), (5, 5)])
    ]
    assert_as_plain(Plan, made, granularity, 3, 5, 0.6, average)


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_copies_of_a_large_teacher_go_past_the_caches_and_arrive(granularity, dtype):
    # Odd lengths and places: what is written past the caches is aligned.
    teacher, student = torch.zeros(40_000_003, dtype=dtype), torch.ones(40_000_003, dtype=dtype)
    shape, some = (26, 1_538_461), slice(3, 3 + 26 * 1_538_461)
    pairs = [Pair('p', teacher[some].view(shape), student[some].view(shape))]
    assert_as_plain(Plan, pairs, granularity, 0, 1, 0.5, None)


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_number_of_threads_changes_nothing(threads):
    made = [Pair('p', torch.zeros(1_000_000), torch.ones(1_000_000))]
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_as_plain(Plan, made, 'element', 1, 2, 0.5, None)
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_values_that_are_not_finite_are_copied_by_their_bits_and_kept_by_their_bits(granularity):
    odd = torch.tensor([float('nan'), float('inf'), -0.0, 1e-45] * 3000).view(6, -1)
    patterns = torch.randint(-(2**31), 2**31 - 1, odd.shape, dtype=torch.int32)
    made = [Pair('a.p', odd.clone(), patterns.view(torch.float32)), Pair('a.q', odd[0], odd[1])]
    assert_as_plain(Plan, made, granularity, 0, 0, 0.5, None)


def test_integers_and_bools_are_copied():
    made = [
        Pair('b.count', torch.tensor(3), torch.tensor(7)),
        Pair('b.mask', torch.tensor([True, False]), torch.tensor([False, False])),
        Pair('b.bytes', torch.arange(9, dtype=torch.uint8), torch.zeros(9, dtype=torch.uint8)),
        Pair(
            'b.phase', torch.zeros(3, dtype=torch.complex64), torch.ones(3, dtype=torch.complex64)
        ),
        Pair('b.mixed', torch.tensor(3), torch.tensor(7, dtype=torch.int32)),
    ]
    Plan(Units(made, 'tensor')).update(0, 0, 0.0, None)
    assert all(torch.equal(pair.teacher, pair.student.to(pair.teacher)) for pair in made)


def test_tensor_that_was_given_other_memory_is_found():
    # As DeepSpeed, apex and `Module.to` do with a parameter.
    student, teacher = torch.nn.Parameter(torch.ones(100)), torch.zeros(100)
    plan = Plan(Units([Pair('p', teacher, student)], 'element'))
    plan.update(0, 0, 0.0, None)
    student.data = torch.full((100,), 2.0)
    teacher.data = torch.zeros(100)
    plan.update(0, 1, 0.0, None)
    assert (teacher == 2).all()


def test_backward_that_needs_a_teacher_of_before_the_update_is_refused():
    teacher, student = torch.ones(3, requires_grad=True), torch.zeros(3)
    loss = (teacher**2).sum()
    Plan(Units([Pair('p', teacher, student)], 'tensor')).update(0, 0, 0.0, 0.1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


def test_an_average_that_is_no_number_moves_what_is_picked():
    made = [Pair('p', torch.zeros(4000), torch.ones(4000))]
    picks = draw_picks(Units(made, 'element'), 0, 0, 0.5)[0]
    Plan(Units(made, 'element')).update(0, 0, 0.5, lambda teacher, student: teacher.fill_(7))
    assert torch.equal(made[0].teacher == 7, picks)


def test_memory_of_an_update_does_not_grow_with_the_model():
    # The kernel works in place; the plain way would hold picks of all elements.
    if fused.cpu_kernel is None:
        pytest.skip('the kernel was not built')
    made = [Pair('p', torch.zeros(4_000_000), torch.ones(4_000_000))]
    plan = Plan(Units(made, 'element'))
    plan.update(0, 0, 0.5, 0.1)
    with torch.profiler.profile(profile_memory=True) as profile:
        plan.update(0, 1, 0.5, 0.1)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert allocated < 0.05 * 16_000_000


@needs_compiler
def test_the_kernel_for_the_cpu_is_installed():
    assert fused.cpu_kernel is not None


@pytest.mark.skipif(fused.cpu_kernel is None, reason='the kernel was not built')
def test_unknown_dtypes_are_refused_by_the_kernel_for_the_cpu():
    with pytest.raises(TypeError, match='no update of float32 from int8'):
        fused.cpu_kernel.update('float32', 'int8', 0, 0, 0, 0, 0, 0, False, 0.0, False, 1)


@needs_triton
def test_the_kernel_for_gpus_does_in_tritons_interpreter_what_the_plain_way_does():
    # The interpreter must be asked for before Triton is imported.
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', Path(__file__).with_name('interpreted_kernel.py')],
        env={**os.environ, 'TRITON_INTERPRET': '1'},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' passed' in result.stdout and 'skipped' not in result.stdout


@needs_triton
@pytest.mark.parametrize('units', range(3))
@pytest.mark.parametrize('averages', [True, False])
@pytest.mark.parametrize(
    'dtypes', [('float32', 'float32'), ('float32', 'bfloat16'), ('bfloat16', 'float64')]
)
def test_the_kernel_for_gpus_compiles_without_one(units, averages, dtypes):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    teacher, student = (getattr(fused.cuda_kernel.tl, dtype) for dtype in dtypes)
    constants = dict(TEACHER=teacher, STUDENT=student, AVERAGES=averages, UNITS=units, BLOCK=2048)
    source = ASTSource(
        fn=fused.cuda_kernel.update,
        signature={
            'table': '*i64',
            'programs': '*i32',
            'key': 'i64',
            'least': 'i32',
            'weight': 'i64',
            **dict.fromkeys(constants, 'constexpr'),
        },
        constexprs=constants,
    )
    assert compile(source, target=GPUTarget('cuda', 90, 32)).asm['cubin']


@needs_cuda
@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('average', [None, 0.01])
def test_update_on_a_gpu_is_that_on_the_cpu_and_awaits_nothing(granularity, average):
    made = [
        Pair(f'b{index // 2}.p{index}', torch.randn(shape).cuda(), torch.randn(shape).cuda())
        for index, shape in enumerate([(70_000,), (3, 100_001), (700, 300), (5,)])
    ]
    assert_as_plain(Plan, made, granularity, 3, 5, 0.6, average)
    plan = Plan(Units(made, granularity))
    plan.update(3, 6, 0.6, average)  # Binds and compiles.
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.cuda.set_sync_debug_mode('error')
        try:
            plan.update(3, 7, 0.6, average)
        finally:
            torch.cuda.set_sync_debug_mode('default')
        torch.cuda.synchronize()
    launches = [event for event in profile.events() if event.name.startswith('update')]
    assert len(launches) == 1
