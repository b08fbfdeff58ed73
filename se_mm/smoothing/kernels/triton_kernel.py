# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel of :mod:`~se_mm.smoothing.kernels.cuda`. Needs Triton."""

from __future__ import annotations

import triton
from triton import language as tl

from se_mm.smoothing import picks

# Elements that one program of the kernel updates.
BLOCK = 2048
# What a unit is to the kernel; ELEMENTS_LAST are elements in a channels_last format.
WHOLE, CHANNELS, ELEMENTS, ELEMENTS_LAST = 0, 1, 2, 3
# If the size of a channel is a multiple of this, so many elements share a hash and a load.
_GROUP = tl.constexpr(8)

_INCREMENT = tl.constexpr(picks.signed(picks.INCREMENT))
_MULTIPLIER_0 = tl.constexpr(picks.signed(picks.MULTIPLIERS[0]))
_MULTIPLIER_1 = tl.constexpr(picks.signed(picks.MULTIPLIERS[1]))


@triton.jit
def _xor_shifted(numbers, bits: tl.constexpr):
    # The shift of a signed number copies its sign; the mask removes it.
    return numbers ^ ((numbers >> bits) & ((1 << (64 - bits)) - 1))


@triton.jit
def _mixed(numbers):
    """``picks.mix_``."""
    numbers = _xor_shifted(numbers, 30) * _MULTIPLIER_0
    numbers = _xor_shifted(numbers, 27) * _MULTIPLIER_1
    return _xor_shifted(numbers, 31)


@triton.jit
def _converted(numbers, DTYPE: tl.constexpr):
    """``numbers.to(DTYPE)``, rounded as in PyTorch: through float32, to nearest."""
    if (tl.bfloat16 == DTYPE) & (numbers.dtype != tl.bfloat16):
        single = numbers.to(tl.float32)
        bits = single.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        numbers = tl.where(single == single, rounded, 0x7FC0).to(tl.uint16)
        numbers = numbers.to(tl.bfloat16, bitcast=True)
    elif (tl.float16 == DTYPE) & (numbers.dtype == tl.float64):
        numbers = numbers.to(tl.float32)
    return numbers.to(DTYPE)


@triton.jit
def _store(teacher, student, index, taken, weight, AVERAGES: tl.constexpr):
    """Update the elements at some indices, where they are taken; None takes all."""
    DTYPE: tl.constexpr = teacher.dtype.element_ty
    new = _converted(tl.load(student + index, mask=taken), DTYPE)
    if AVERAGES:
        # As torch.lerp: from the nearer end, in float32 or the teacher's higher precision.
        exact = tl.float64 if tl.float64 == DTYPE else tl.float32
        share = weight.to(tl.int64).to(tl.float64, bitcast=True).to(exact)
        old = tl.load(teacher + index, mask=taken).to(exact)
        way = new.to(exact) - old
        between = tl.where(share < 0.5, old + share * way, new.to(exact) - way * (1 - share))
        # Equal infinities do not become NaN.
        new = _converted(tl.where(new.to(exact) == old, old, between), DTYPE)
    tl.store(teacher + index, new, mask=taken)


@triton.jit(do_not_specialize=['key', 'least', 'weight'])
def update(
    table,
    programs,
    key,
    least,
    weight,
    teachers,
    students,
    AVERAGES: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Update the picked units of many tensors; each program has a block of one of them.

    Args:
        table: ``(tensors, 6)`` int64: see :class:`~se_mm.smoothing.kernels.base.TableKernel`.
        programs: ``(programs, 2)`` int32: see there.
        key: What the update adds to the keys.
        least: Threshold of the picks, an int32.
        weight: The bits of a float64: weight of the student's value.
        teachers: Any tensor of the teachers' dtype: Triton before 3.2 makes no pointer of a dtype.
        students: Any tensor of the students' dtype.
        AVERAGES: Whether a picked unit is averaged; otherwise it is copied.
        UNITS: What a unit is.
        BLOCK: Elements in a block.
        ALIGNED: Whether all tensors begin at multiples of 16 bytes, so that a thread can load 16.
    """
    program = tl.program_id(0).to(tl.int64)
    row = table + tl.load(programs + 2 * program).to(tl.int64) * 6
    start = tl.multiple_of(tl.load(programs + 2 * program + 1) * BLOCK, BLOCK)
    teacher = tl.load(row).to(teachers.dtype, bitcast=True)
    student = tl.load(row + 1).to(students.dtype, bitcast=True)
    # Used only where all elements of a load are taken or none. Otherwise each is loaded by itself,
    # which is fast if those of neighbouring threads are neighbours.
    wide_teacher, wide_student = teacher, student
    if ALIGNED:
        wide_teacher = tl.multiple_of(tl.load(row).to(teachers.dtype, bitcast=True), 16)
        wide_student = tl.multiple_of(tl.load(row + 1).to(students.dtype, bitcast=True), 16)
    first = tl.load(row + 2) + key
    size = tl.load(row + 3).to(tl.int32)
    count = tl.load(row + 4).to(tl.int32)
    index = start + tl.arange(0, BLOCK)
    if UNITS == 0:
        if (_mixed(first) >> 32).to(tl.int32) >= least:
            # Not start + BLOCK, which may be 2^31.
            if count - start >= BLOCK:
                _store(wide_teacher, wide_student, index, None, weight, AVERAGES)
            else:
                _store(teacher, student, index, index < count, weight, AVERAGES)
    elif UNITS == 1:
        if size % _GROUP == 0:
            group = start + tl.arange(0, BLOCK // _GROUP) * _GROUP
            units = (group // size).to(tl.int64)
            taken = (_mixed(first + units * _INCREMENT) >> 32).to(tl.int32) >= least
            taken = taken & (group < count)
            inside = tl.arange(0, _GROUP)
            taken = taken[:, None] & (inside >= 0)[None, :]
            many = group[:, None] + inside[None, :]
            _store(wide_teacher, wide_student, many, taken, weight, AVERAGES)
        else:
            unit = (index // size).to(tl.int64)
            picked = (_mixed(first + unit * _INCREMENT) >> 32).to(tl.int32) >= least
            _store(teacher, student, index, picked & (index < count), weight, AVERAGES)
    else:
        place = index
        if UNITS == 3:
            channels = tl.load(row + 5).to(tl.int32)
            pixel = index // channels
            image = pixel // size
            place = (image * channels + index - pixel * channels) * size + pixel - image * size
        hashes = _mixed(first + (place >> 1).to(tl.int64) * _INCREMENT)
        drawn = tl.where(place & 1 == 1, hashes >> 32, hashes).to(tl.int32) >= least
        _store(teacher, student, index, drawn & (index < count), weight, AVERAGES)
