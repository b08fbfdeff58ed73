# SPDX-License-Identifier: Apache-2.0
"""Every backend of an update writes what the plain one does."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.smoothing import GRANULARITIES
from se_mm.smoothing.kernels import CPUKernel, PlainKernel, choose
from se_mm.smoothing.kernels.cpu import cpu_kernel
from se_mm.smoothing.kernels.cuda import triton_kernel
from se_mm.smoothing.units import TensorPair, Units
from se_mm.smoothing.update import draw_picks, update

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
needs_triton = pytest.mark.skipif(triton_kernel is None, reason='needs Triton')
needs_cpu_kernel = pytest.mark.skipif(cpu_kernel is None, reason='the kernel was not built')
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
        result.append(TensorPair(f'block{index // 2}.p{index}', *tensors))
    return result


def bits(tensor):
    return tensor.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)


def chosen(made, granularity):
    """One object whose update is that of the kernels that are chosen for some pairs."""
    return Chosen(choose(made, granularity))


class Chosen:
    """Several kernels as one."""

    def __init__(self, kernels):
        self.kernels = kernels

    def update(self, *args):
        for kernel in self.kernels:
            kernel.update(*args)


def assert_as_plain(build, made, granularity, seed, step, keep_prob, average):
    """``build(pairs, granularity).update`` and the plain one leave the same teachers."""
    plain = [TensorPair(pair.name, pair.teacher.clone(), pair.student) for pair in made]
    before = [pair.teacher.clone() for pair in made]
    picks = draw_picks(Units(plain, granularity), seed, step, keep_prob)
    update(plain, picks, average)
    build(made, granularity).update(seed, step, keep_prob, average)
    for pair, expected, pick, old in zip(made, plain, picks, before):
        if average is None:
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
    average=st.sampled_from([None, 0.001, 0.3, 0.8]),
)
@settings(max_examples=60)
def test_chosen_backends_do_what_the_plain_one_does(
    granularity, made, seed, step, keep_prob, average
):
    assert_as_plain(chosen, made, granularity, seed, step, keep_prob, average)


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('average', [None, 0.01])
def test_tensors_of_many_blocks_are_updated_whole(granularity, average):
    made = [
        TensorPair(f'p{index}', torch.randn(shape), torch.randn(shape))
        for index, shape in enumerate([(70_000,), (3, 100_001), (700, 300), (1, 200_000), (5, 5)])
    ]
    assert_as_plain(chosen, made, granularity, 3, 5, 0.6, average)


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_copies_of_a_large_teacher_go_past_the_caches_and_arrive(granularity, dtype):
    # Odd lengths and places: what is written past the caches is aligned.
    teacher, student = torch.zeros(40_000_003, dtype=dtype), torch.ones(40_000_003, dtype=dtype)
    shape, some = (26, 1_538_461), slice(3, 3 + 26 * 1_538_461)
    pairs = [TensorPair('p', teacher[some].view(shape), student[some].view(shape))]
    assert_as_plain(chosen, pairs, granularity, 0, 1, 0.5, None)


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_number_of_threads_changes_nothing(threads):
    made = [TensorPair('p', torch.zeros(1_000_000), torch.ones(1_000_000))]
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_as_plain(chosen, made, 'element', 1, 2, 0.5, None)
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize('granularity', GRANULARITIES)
def test_values_that_are_not_finite_are_copied_by_their_bits_and_kept_by_their_bits(granularity):
    odd = torch.tensor([float('nan'), float('inf'), -0.0, 1e-45] * 3000).view(6, -1)
    patterns = torch.randint(-(2**31), 2**31 - 1, odd.shape, dtype=torch.int32)
    made = [
        TensorPair('a.p', odd.clone(), patterns.view(torch.float32)),
        TensorPair('a.q', odd[0], odd[1]),
    ]
    assert_as_plain(chosen, made, granularity, 0, 0, 0.5, None)


def test_integers_and_bools_are_copied():
    made = [
        TensorPair('b.count', torch.tensor(3), torch.tensor(7)),
        TensorPair('b.mask', torch.tensor([True, False]), torch.tensor([False, False])),
        TensorPair(
            'b.bytes', torch.arange(9, dtype=torch.uint8), torch.zeros(9, dtype=torch.uint8)
        ),
        TensorPair(
            'b.phase', torch.zeros(3, dtype=torch.complex64), torch.ones(3, dtype=torch.complex64)
        ),
        TensorPair('b.mixed', torch.tensor(3), torch.tensor(7, dtype=torch.int32)),
    ]
    chosen(made, 'tensor').update(0, 0, 0.0, None)
    assert all(torch.equal(pair.teacher, pair.student.to(pair.teacher)) for pair in made)


def test_backward_that_needs_a_teacher_of_before_the_update_is_refused():
    teacher, student = torch.ones(3, requires_grad=True), torch.zeros(3)
    loss = (teacher**2).sum()
    chosen([TensorPair('p', teacher, student)], 'tensor').update(0, 0, 0.0, 0.1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


@needs_cpu_kernel
def test_backend_is_chosen_by_dtype_layout_and_device():
    pair = TensorPair('a', torch.zeros(4, 6), torch.ones(4, 6))
    turned = TensorPair('b', torch.zeros(6, 4).t(), torch.ones(4, 6))
    eights = TensorPair('c', torch.zeros(4), torch.empty(4, dtype=torch.float8_e5m2))
    meta = TensorPair('d', torch.zeros(4, device='meta'), torch.ones(4, device='meta'))
    for made, kinds in (
        ([pair], [CPUKernel]),
        ([turned], [PlainKernel]),
        ([pair, turned], [CPUKernel, PlainKernel]),
        ([eights], [PlainKernel]),
        ([meta], [PlainKernel]),
        ([], []),
    ):
        assert list(map(type, choose(made, 'element'))) == kinds


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('dtype', FLOATS)
@pytest.mark.parametrize('build', [chosen, lambda made, g: PlainKernel(Units(made, g))])
def test_equal_infinities_of_a_mask_stay_what_they_are(granularity, dtype, build):
    mask = torch.tensor([0.0, -torch.inf, torch.inf, 1.0] * 16, dtype=dtype).view(16, 4)
    made = [TensorPair('a.mask', mask.clone(), mask.clone())]
    for step in range(5):
        build(made, granularity).update(0, step, 0.3, 0.1)
    assert torch.equal(made[0].teacher, mask)


@needs_cpu_kernel
def test_memory_of_an_update_does_not_grow_with_the_model():
    # The kernel works in place; the plain backend would hold picks of all elements.
    made = [TensorPair('p', torch.zeros(4_000_000), torch.ones(4_000_000))]
    plan = chosen(made, 'element')
    plan.update(0, 0, 0.5, 0.1)
    with torch.profiler.profile(profile_memory=True) as profile:
        plan.update(0, 1, 0.5, 0.1)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert allocated < 0.05 * 16_000_000


@needs_compiler
def test_the_kernel_for_the_cpu_is_installed():
    assert cpu_kernel is not None


@needs_cpu_kernel
def test_unknown_dtypes_are_refused_by_the_kernel_for_the_cpu():
    with pytest.raises(TypeError, match='no update of float32 from int8'):
        cpu_kernel.update('float32', 'int8', 0, 0, 0, 0, 0, 0, False, 0.0, False, 1)


@needs_triton
@pytest.mark.skipif('triton_kernel.triton.__version__ < "3"', reason='has no interpreter')
def test_the_kernel_for_gpus_does_in_tritons_interpreter_what_the_plain_way_does():
    # The interpreter must be asked for before Triton is imported.
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', Path(__file__).with_name('interpreted_kernel.py')],
        env={**os.environ, 'TRITON_INTERPRET': '1'},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' passed' in result.stdout and 'skipped' not in result.stdout


def compiled(monkeypatch, pointers, capability, **constants):
    """The kernel as Triton's compiler makes it for a card, which it needs none of."""
    names = ['table', 'programs', 'key', 'least', 'weight', 'teachers', 'students']
    types = dict(zip(names, ['*i64', '*i32', 'i64', 'i32', 'i64', *pointers]))
    if triton_kernel.triton.__version__ < '3':
        from triton.compiler import compiler

        # What launches the kernel is linked with CUDA's library, which is not there.
        monkeypatch.setattr(compiler, 'make_stub', lambda *_, **__: '')
        monkeypatch.setattr(compiler, 'CompiledKernel', lambda *args: SimpleNamespace(asm=args[-1]))
        return compiler.compile(
            triton_kernel.update,
            signature=dict(enumerate(types.values())),
            constants=dict(enumerate(constants.values(), start=len(names))),
            cc=capability,
        )
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    source = ASTSource(
        fn=triton_kernel.update,
        signature={**types, **dict.fromkeys(constants, 'constexpr')},
        constexprs=constants,
    )
    return compile(source, target=GPUTarget('cuda', capability, 32))


@needs_triton
@pytest.mark.parametrize('units', range(4))
@pytest.mark.parametrize('averages', [True, False])
@pytest.mark.parametrize('pointers', [('*fp32', '*fp32'), ('*fp32', '*bf16'), ('*bf16', '*fp16')])
def test_the_kernel_for_gpus_compiles_without_one(monkeypatch, units, averages, pointers):
    made = compiled(
        monkeypatch, pointers, 90, AVERAGES=averages, UNITS=units, BLOCK=2048, ALIGNED=True
    )
    assert made.asm['cubin']
    if triton_kernel.triton.__version__ < '3':
        return
    # What is taken in groups is loaded by 16 bytes at a time. Elements are loaded one by one, each
    # by the thread beside its neighbour's.
    assert bool(re.search(r'ld\.global\.v[24]', made.asm['ptx'])) == (units < 2)


@needs_cuda
@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('average', [None, 0.01])
def test_update_on_a_gpu_is_that_on_the_cpu_and_awaits_nothing(granularity, average):
    made = [
        TensorPair(f'b{index // 2}.p{index}', torch.randn(shape).cuda(), torch.randn(shape).cuda())
        for index, shape in enumerate([(70_000,), (3, 100_001), (700, 300), (5,)])
    ]
    assert_as_plain(chosen, made, granularity, 3, 5, 0.6, average)
    plan = chosen(made, granularity)
    plan.update(3, 6, 0.6, average)  # Compiles.
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
