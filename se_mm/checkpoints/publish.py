# SPDX-License-Identifier: Apache-2.0
"""Publish the teacher or the student of a training checkpoint as weights of a plain model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional, Union

import torch
from mmengine.config import Config
from torch import Tensor

from se_mm.checkpoints.read import read_checkpoint
from se_mm.checkpoints.write import check_out, whole_file
from se_mm.engine.hooks.recalibrate import check_batches, statistics
from se_mm.engine.hooks.record import CHECKPOINT_KEY, read_record
from se_mm.engine.launch import build_runner, config_file
from se_mm.smoothing.options import OptionError, check_choice, check_count, did_you_mean
from se_mm.teachers import plain_model
from se_mm.version import __version__

WEIGHTS = ('teacher', 'student')
State = dict[str, Tensor]


@dataclass(frozen=True)
class TeacherAndStudent:
    """The teacher and the student of a training checkpoint, by the student model's names.

    Attributes:
        kind: Kind of the teacher, as in :data:`~se_mm.teachers.TEACHERS`; None if there is
            none.
        teacher: Its tensors; where the teacher is a part of the model, only those of that part.
        student: All of the student's tensors.
        path: Dotted name of the student in the trained model; empty if it is that model.
    """

    kind: Optional[str]
    teacher: State
    student: State
    path: str = ''


def teacher_and_student(checkpoint: dict[str, Any]) -> TeacherAndStudent:
    """Separate the teacher of a checkpoint from its student.

    The record of se_mm says where they are; in stock checkpoints, names and shapes do.

    Raises:
        OptionError: If the checkpoint holds several teachers, or several possible students.
    """
    state: State = dict(checkpoint['state_dict'])
    if 'ema_state_dict' in checkpoint:
        student = _below(checkpoint['ema_state_dict'], 'module')
        return TeacherAndStudent('shadow', state, student)
    record = read_record(checkpoint)
    if record is not None:
        return _recorded(state, record['teacher'])
    if _below(state, 'student') and _below(state, 'teacher'):
        teacher, student = _below(state, 'teacher'), _below(state, 'student')
        return TeacherAndStudent('pair', teacher, student, 'student')
    averaged = [
        name[: -len('.steps')]
        for name in state
        if name.endswith('.steps') and _below(state, name[: -len('steps')] + 'module')
    ]
    outermost = [p for p in averaged if not any(p.startswith(o + '.module.') for o in averaged)]
    if len(outermost) > 1:
        raise OptionError(
            f'cannot publish from a checkpoint with several teachers: '
            f'{", ".join(map(repr, outermost))}'
        )
    if outermost:
        path, kind = outermost[0], 'averaged'
        module = _below(state, f'{path}.module')
    elif _below(state, 'teacher'):
        path, kind = 'teacher', 'method'
        module = _below(state, path)
    else:
        return TeacherAndStudent(None, {}, state)
    student = {name: value for name, value in state.items() if not name.startswith(path + '.')}
    folder = path.rpartition('.')[0]
    teacher = {}
    for inner, part in _parts(module, _siblings(student, folder)).items():
        teacher |= {f'{inner}.{name}': value for name, value in part.items()}
    return TeacherAndStudent(kind, teacher, student)


def _recorded(state: State, where: Mapping[str, Any]) -> TeacherAndStudent:
    """Teacher and student by what the record of se_mm has of them."""
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


def publish(
    source: Union[str, Path],
    out: Union[str, Path],
    weights: str,
    prefixes: Sequence[str] = (),
    overwrite: bool = False,
    recalibrate: Optional[str] = None,
    batches: int = 50,
) -> dict[str, Any]:
    """Write the teacher or the student of a training checkpoint as a checkpoint of a plain model.

    Args:
        source: The training checkpoint.
        out: The file to write; its folder is created.
        weights: ``'teacher'`` or ``'student'``.
        prefixes: Dotted names of the parts to keep; all if empty. Names are not changed: load a
            part with ``init_cfg=dict(..., prefix='backbone.')``.
        overwrite: Whether an existing file is replaced.
        recalibrate: Training config, on whose training batches the statistics of the teacher's
            batch norms are computed anew. None: they stay as the checkpoint has them.
        batches: Number of these batches, at least 1.

    Returns:
        What was written: ``state_dict``, and ``meta`` with its origin under ``'se_mm'``.

    Raises:
        OptionError: If the source lacks the weights, or ``out`` cannot be written.
    """
    check_choice('weights', weights, WEIGHTS)
    source, out = Path(source), Path(out)
    check_out(source, out, overwrite)
    checkpoint = read_checkpoint(source)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise OptionError(f'checkpoint {str(source)!r} must have a state_dict, and has none')
    found = teacher_and_student(checkpoint)
    if weights == 'teacher' and found.kind is None:
        raise OptionError(
            f'weights={weights!r} is not in {str(source)!r}, which holds one model: '
            f'{", ".join(_children(found.student))}'
        )
    state = found.teacher if weights == 'teacher' else found.student
    if recalibrate is not None:
        if weights != 'teacher':
            raise OptionError(f"recalibrate needs weights='teacher', got {weights!r}")
        check_count('batches', batches, 1)
        state = state | _recalibrated(checkpoint['state_dict'], found, recalibrate, batches)
    chosen = _choose(state, prefixes, weights)
    meta = checkpoint.get('meta') or {}
    published = {
        # Cloned: a view would be saved with its whole storage.
        'state_dict': {name: value.clone() for name, value in chosen.items()},
        'meta': {
            **{key: meta[key] for key in ('dataset_meta', 'epoch', 'iter') if key in meta},
            CHECKPOINT_KEY: {
                'version': __version__,
                'checkpoint': source.name,
                'sha256': _digest(source),
                'weights': weights,
                'prefixes': list(prefixes),
                'recalibrated_on': batches if recalibrate else None,
                'teacher': found.kind,
                'hook': checkpoint.get(CHECKPOINT_KEY),
            },
        },
    }
    with whole_file('out', out) as file:
        torch.save(published, file)
    return published


@torch.no_grad()
def _recalibrated(
    state: State, found: TeacherAndStudent, config: str, batches: int
) -> dict[str, Tensor]:
    """Statistics of the teacher's batch norms over training batches, by published name."""
    cfg = Config.fromfile(config_file(config))
    with TemporaryDirectory() as folder:
        cfg.update(work_dir=folder, launcher='none', log_level='WARNING')
        runner = build_runner(cfg)
        check_batches(runner)
        network = plain_model(runner.model)
        start = f'{found.path}.' if found.path else ''
        teacher = {start + name: value for name, value in found.teacher.items()}
        held = state | teacher
        for name, value in network.state_dict().items():
            if name not in held or held[name].shape != value.shape:
                raise OptionError(
                    f'recalibrate must be the config that the checkpoint was trained with, got '
                    f'{config!r}, whose model has {name!r} of shape {tuple(value.shape)}'
                )
        network.load_state_dict(held, strict=False)
        new = statistics(runner, network, teacher, batches, runner.seed)
    return {name[len(start) :]: value.to(teacher[name]) for name, value in new.items()}


def _below(state: State, prefix: str) -> State:
    """The tensors under a dotted name, without it."""
    start = prefix + '.'
    return {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}


def _children(state: State, folder: str = '') -> list[str]:
    """Dotted names of the modules directly in a folder."""
    inside = _below(state, folder) if folder else state
    names = dict.fromkeys(name.split('.')[0] for name in inside)
    return [f'{folder}.{name}' if folder else name for name in names]


def _siblings(student: State, folder: str) -> dict[str, State]:
    """The modules beside a teacher."""
    return {name: _below(student, name) for name in _children(student, folder)}


def _parts(module: State, siblings: dict[str, State]) -> dict[str, State]:
    """The teacher's tensors by the name of the sibling that each part of it follows."""
    whole = [name for name, tensors in siblings.items() if _shapes(tensors) == _shapes(module)]
    if len(whole) == 1:
        return {whole[0]: module}
    parts = {name: _below(module, name) for name in _children(module)}
    found: dict[str, State] = {}
    for number, part in parts.items():
        alike = [name for name, tensors in siblings.items() if _shapes(tensors) == _shapes(part)]
        if whole or len(alike) != 1:
            several = ', '.join(map(repr, whole or alike))
            raise OptionError(
                f'part {number!r} of the teacher must match one module beside it, and matches '
                f'{several or "none"}'
            )
        found[alike[0]] = part
    return found


def _shapes(tensors: State) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _choose(state: State, prefixes: Sequence[str], weights: str) -> State:
    """The tensors under any of the prefixes, or all."""
    if not prefixes:
        return state
    chosen: State = {}
    for prefix in prefixes:
        part = _below(state, prefix)
        if not part:
            names = list(
                dict.fromkeys(
                    '.'.join(name.split('.')[:depth])
                    for name in state
                    for depth in range(1, name.count('.') + 1)
                )
            )
            raise OptionError(
                f'prefix={prefix!r} must be a part of the {weights}, which has '
                f'{", ".join(_children(state))}.{did_you_mean(prefix, names)}'
            )
        chosen |= {f'{prefix}.{name}': value for name, value in part.items()}
    return chosen


def _digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
