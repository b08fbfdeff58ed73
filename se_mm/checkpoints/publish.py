# SPDX-License-Identifier: Apache-2.0
"""Publish the teacher or the student of a training checkpoint as weights of a plain model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional, Union

import torch
from mmengine.config import Config
from torch import Tensor

from se_mm.checkpoints.read import read_checkpoint
from se_mm.checkpoints.write import check_out, whole_file
from se_mm.engine.fit import check_when_loaded
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
    top = _children(state)
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
    beside = [name for name in _children(state, path.rpartition('.')[0]) if name != path]
    parts = [module] if _alike(state, module, beside) else _children(state, module)
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
        prefixes: Dotted names of the parts to keep; empty: all. Tensors keep their names: load a
            part with ``init_cfg=dict(..., prefix='backbone.')``.
        overwrite: Whether an existing file is replaced.
        recalibrate: Training config, on whose training batches the statistics of the teacher's
            batch norms are recomputed. None: they stay those of the checkpoint.
        batches: Number of these batches, at least 1.

    Returns:
        The written checkpoint: ``state_dict``, and ``meta`` with its origin under ``'se_mm'``.
    """
    check_choice('weights', weights, WEIGHTS)
    source, out = Path(source), Path(out)
    check_out(source, out, overwrite)
    checkpoint = read_checkpoint(source)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise OptionError(f'checkpoint {str(source)!r} must have a state_dict, got none')
    found = teacher_and_student(checkpoint)
    if weights == 'teacher' and found.kind is None:
        raise OptionError(
            f'weights={weights!r} needs a teacher, but {str(source)!r} has only one model, with '
            f'{", ".join(_children(found.student))}'
        )
    state = found.teacher if weights == 'teacher' else found.student
    if recalibrate is not None:
        if weights != 'teacher':
            raise OptionError(f"recalibrate needs weights='teacher', got {weights!r}")
        check_count('batches', batches, 1)
        trained = checkpoint['state_dict']
        state = state | _recalibrated(str(source), trained, found, recalibrate, batches)
    chosen = _choose(state, prefixes, weights)
    meta = checkpoint.get('meta') or {}
    published = {
        # A view would be saved with its whole storage.
        'state_dict': {name: value.clone() for name, value in chosen.items()},
        'meta': {
            **{key: meta[key] for key in ('dataset_meta', 'epoch', 'iter') if key in meta},
            CHECKPOINT_KEY: {
                'version': __version__,
                'checkpoint': source.name,
                'sha256': hashlib.sha256(source.read_bytes()).hexdigest(),
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
    path: str, state: State, found: TeacherAndStudent, config: str, batches: int
) -> State:
    """Compute the statistics of the teacher's batch norms on training batches, by its names."""
    cfg = Config.fromfile(config_file(config))
    with TemporaryDirectory() as folder:
        cfg.update(work_dir=folder, launcher='none', log_level='WARNING')
        runner = build_runner(cfg)
        check_batches(runner)
        network = plain_model(runner.model)
        start = f'{found.path}.' if found.path else ''
        teacher = {start + name: value for name, value in found.teacher.items()}
        held = state | teacher
        check_when_loaded(network, held, path)
        network.load_state_dict(held, strict=False)
        new = statistics(runner, network, teacher, batches, runner.seed)
    return {name[len(start) :]: value.to(teacher[name]) for name, value in new.items()}


def _below(state: State, prefix: str) -> State:
    """Return the tensors below a dotted name, which is removed from their names."""
    start = prefix + '.'
    return {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}


def _children(state: State, parent: str = '') -> list[str]:
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


def _choose(state: State, prefixes: Sequence[str], weights: str) -> State:
    """Return the tensors below any of the prefixes; all without prefixes."""
    if not prefixes:
        return state
    chosen: State = {}
    for prefix in prefixes:
        part = {name: value for name, value in state.items() if name.startswith(f'{prefix}.')}
        if not part:
            modules = {name[: dot.start()] for name in state for dot in re.finditer(r'\.', name)}
            raise OptionError(
                f'prefix={prefix!r} must be a part of the {weights}, which has '
                f'{", ".join(_children(state))}.{did_you_mean(prefix, modules)}'
            )
        chosen |= part
    return chosen
