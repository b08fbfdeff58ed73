# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel of :mod:`~se_mm.smoothing.kernels.cuda`. Needs Triton."""

from __future__ import annotations

import triton
from triton import language as tl

from se_mm.smoothing import picks

# Numbers that one program of the kernel updates.
BLOCK = 2048
# What a unit is to the kernel.
WHOLE, CHANNELS, ELEMENTS = 0, 1, 2

_INCREMENT = tl.constexpr(picks.signed(picks.INCREMENT))
_MULTIPLIER_0 = tl.constexpr(picks.signed(picks.MULTIPLIERS[0]))
_MULTIPLIER_1 = tl.constexpr(picks.signed(picks.MULTIPLIERS[1]))


@triton.jit
def _xor_shifted(numbers, bits: tl.constexpr):
    # The shift of a signed number copies its sign; the mask takes it away.
    return numbers ^ ((numbers >> bits) & ((1 << (64 - bits)) - 1))


@triton.jit
def _mixed(numbers):
    """``picks.mix_``."""
    numbers = _xor_shifted(numbers, 30) * _MULTIPLIER_0
    numbers = _xor_shifted(numbers, 27) * _MULTIPLIER_1
    return _xor_shifted(numbers, 31)


@triton.jit
def _converted(numbers, DTYPE: tl.constexpr):
    """``numbers.to(DTYPE)``, as PyTorch rounds: over float32, and not cut off."""
    if (tl.bfloat16 == DTYPE) & (numbers.dtype != tl.bfloat16):
        single = numbers.to(tl.float32)
        bits = single.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        numbers = tl.where(single == single, rounded, 0x7FC0).to(tl.uint16)
        numbers = numbers.to(tl.bfloat16, bitcast=True)
    elif (tl.float16 == DTYPE) & (numbers.dtype == tl.float64):
        numbers = numbers.to(tl.float32)
    return numbers.to(DTYPE)


@triton.jit(do_not_specialize=['key', 'least', 'weight'])
def update(
    table,
    programs,
    key,
    least,
    weight,
    TEACHER: tl.constexpr,
    STUDENT: tl.constexpr,
    AVERAGES: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Update the picked units of many tensors; each program has a block of one of them.

    Args:
        table: ``(tensors, 5)`` int64: addresses of teacher and student, key of the first unit,
            numbers in a unit, numbers in all.
        programs: ``(programs, 2)`` int32: the tensor, and which block of it.
        key: What the update adds to the keys.
        least: Threshold of the picks, an int32.
        weight: The bits of a float64: weight of the student's value.
        TEACHER: Dtype of the teachers.
        STUDENT: Dtype of the students.
        AVERAGES: Whether a picked unit moves by ``weight``; otherwise it is copied.
        UNITS: What a unit is.
        BLOCK: Numbers in a block.
    """
    program = tl.program_id(0).to(tl.int64)
    row = table + tl.load(programs + 2 * program).to(tl.int64) * 5
    teacher = tl.load(row).to(tl.pointer_type(TEACHER))
    student = tl.load(row + 1).to(tl.pointer_type(STUDENT))
    first = tl.load(row + 2) + key
    index = tl.load(programs + 2 * program + 1) * BLOCK + tl.arange(0, BLOCK)
    inside = index < tl.load(row + 4).to(tl.int32)
    if UNITS == 0:
        taken = (_mixed(first) >> 32).to(tl.int32) >= least
    elif UNITS == 1:
        unit = (index // tl.load(row + 3).to(tl.int32)).to(tl.int64)
        taken = (_mixed(first + unit * _INCREMENT) >> 32).to(tl.int32) >= least
    else:
        hashes = _mixed(first + (index >> 1).to(tl.int64) * _INCREMENT)
        taken = tl.where(index & 1 == 1, hashes >> 32, hashes).to(tl.int32) >= least
    taken = inside & taken
    new = tl.load(student + index, mask=taken)
    if AVERAGES:
        # As torch.lerp does it: from the nearer end, in float32 unless the teacher has more.
        exact = tl.float64 if tl.float64 == TEACHER else tl.float32
        share = weight.to(tl.int64).to(tl.float64, bitcast=True).to(exact)
        old = tl.load(teacher + index, mask=taken).to(exact)
        # First to the teacher's dtype: the plain way averages what a copy would write.
        new = _converted(new, TEACHER).to(exact)
        way = new - old
        moved = tl.where(share < 0.5, old + share * way, new - way * (1 - share))
        new = tl.where(old == new, old, moved)  # Equal infinities do not become NaN.
    tl.store(teacher + index, _converted(new, TEACHER), mask=taken)
