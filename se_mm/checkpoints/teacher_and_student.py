# SPDX-License-Identifier: Apache-2.0
"""Separate the teacher and the student of a training checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor

from se_mm.engine.hooks.record import read_record
from se_mm.smoothing.options import OptionError

State = dict[str, Tensor]


@dataclass(frozen=True)
class TeacherAndStudent:
    """The teacher and the student of a training checkpoint, by the student model's names."""

    kind: Optional[str]  # Kind of the teacher, as in TEACHERS; None without a teacher.
    teacher: State  # If only a part of the model has a teacher, the tensors of that part.
    student: State
    path: str = ''  # Dotted name of the student in the trained model; empty: the model itself.


def teacher_and_student(checkpoint: dict[str, Any]) -> TeacherAndStudent:
    """Separate the teacher of a checkpoint from its student.

    A checkpoint of se_mm has a record of where they are; in others, names and shapes tell.

    Raises:
        OptionError: If the checkpoint has several teachers, or several possible students.
    """
    state: State = dict(checkpoint['state_dict'])
    if 'ema_state_dict' in checkpoint:
        student = _below(checkpoint['ema_state_dict'], 'module')
        return TeacherAndStudent('shadow', state, student)
    record = read_record(checkpoint)
    where = _guessed(state) if record is None else record['teacher']
    if where is None:
        return TeacherAndStudent(None, {}, state)
    teacher: State = {}
    for part, published in where['parts'].items():
        for name, value in _below(state, part).items():
            teacher[f'{published}.{name}'.lstrip('.')] = value
    if where['student']:
        student = _below(state, where['student'])
    else:
        own = f'{where["path"]}.'
        student = {name: value for name, value in state.items() if not name.startswith(own)}
    return TeacherAndStudent(where['kind'], teacher, student, where['student'])


def _guessed(state: State) -> Optional[dict[str, Any]]:
    """Return a record for the teacher in a checkpoint that se_mm did not write; None without."""
    top = children(state)
    if 'teacher' in top and 'student' in top:
        return dict(kind='pair', path='teacher', parts={'teacher': ''}, student='student')
    averaged = [name.removesuffix('.steps') for name in state if name.endswith('.steps')]
    averaged = [path for path in averaged if _below(state, f'{path}.module')]
    paths = [p for p in averaged if not any(p.startswith(f'{o}.module.') for o in averaged)]
    if len(paths) > 1:
        raise OptionError(
            f'cannot publish from a checkpoint with several teachers: {", ".join(map(repr, paths))}'
        )
    if paths:
        kind, path, module = 'averaged', paths[0], f'{paths[0]}.module'
    elif 'teacher' in top:
        kind, path, module = 'method', 'teacher', 'teacher'
    else:
        return None
    beside = [name for name in children(state, path.rpartition('.')[0]) if name != path]
    parts = [module] if _alike(state, module, beside) else children(state, module)
    found = {}
    for part in parts:
        names = _alike(state, part, beside)
        if len(names) != 1:
            raise OptionError(
                f'part {part!r} of the teacher must have the shapes of one module beside it, got '
                f'{", ".join(map(repr, names)) or "none"}'
            )
        found[part] = names[0]
    return dict(kind=kind, path=path, parts=found, student='')


def _below(state: State, prefix: str) -> State:
    """Return the tensors below a dotted name, which is removed from their names."""
    start = prefix + '.'
    return {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}


def children(state: State, parent: str = '') -> list[str]:
    """Return the dotted names of the modules directly in a module."""
    inside = _below(state, parent) if parent else state
    names = dict.fromkeys(name.split('.')[0] for name in inside)
    return [f'{parent}.{name}' if parent else name for name in names]


def _alike(state: State, part: str, others: Sequence[str]) -> list[str]:
    """Return the modules whose tensors have the names and shapes of those of a part."""
    shapes = {
        module: {name: value.shape for name, value in _below(state, module).items()}
        for module in (part, *others)
    }
    return [module for module in others if shapes[module] == shapes[part]]
