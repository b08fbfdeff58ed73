# SPDX-License-Identifier: Apache-2.0
"""Convert checkpoints of the code released with the paper to mmpretrain's BYOL or a backbone.

That code (https://github.com/tengteng95/Spatial_Ensemble) saves ``model``, whose parts
``student_encoder`` and ``teacher_encoder`` are each a ResNet with torchvision's names, whose ``fc``
is the projector, and in the student the predictor behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor

from se_mm.checkpoints.read import read_checkpoint
from se_mm.checkpoints.write import check_out, whole_file
from se_mm.engine.hooks.record import CHECKPOINT_KEY
from se_mm.smoothing.options import OptionError, check_choice
from se_mm.version import __version__

FORMATS = ('byol', 'backbone')
WEIGHTS = ('teacher', 'student')
State = dict[str, Tensor]

_BACKBONE = re.compile(r'conv1|bn1|layer\d+\.\d+\.(conv\d|bn\d|downsample\.\d)')
# The places in the sequence ``fc`` are linear, norm, ReLU, linear, and the same again.
_HEADS = {
    'fc.0': 'neck.fc0',
    'fc.1': 'neck.bn0',
    'fc.3': 'neck.fc1',
    'fc.4': 'head.predictor.fc0',
    'fc.5': 'head.predictor.bn0',
    'fc.7': 'head.predictor.fc1',
}


def convert(
    source: Union[str, Path],
    out: Union[str, Path],
    to: str,
    weights: str = 'teacher',
    overwrite: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Convert a released checkpoint to one of mmpretrain.

    Args:
        source: The released checkpoint.
        out: The file to write; its folder is created.
        to: ``'byol'``: all of mmpretrain's BYOL, with ``with_last_bias=True`` in neck and
            predictor, since the released ones have that bias; ``'backbone'``: a backbone, under the
            prefix ``backbone.``, as an ``init_cfg`` takes it.
        weights: Whose backbone, ``'teacher'`` or ``'student'``.
        overwrite: Whether an existing file is replaced.

    Returns:
        What was written, and the names of what of the source was left out.
    """
    check_choice('to', to, FORMATS)
    check_choice('weights', weights, WEIGHTS)
    source, out = Path(source), Path(out)
    check_out(source, out, overwrite)
    checkpoint = read_checkpoint(source)
    model = checkpoint.get('model') if isinstance(checkpoint, Mapping) else None
    if not isinstance(model, Mapping):
        raise OptionError(f"checkpoint {str(source)!r} must have a 'model', and has none")
    parts = {who: _part(model, f'{who}_encoder', str(source)) for who in WEIGHTS}
    left_out = [key for key in checkpoint if key != 'model']
    student, teacher = parts['student'], parts['teacher']
    _check_alike(student, teacher)
    if to == 'byol':
        inside = {'backbone': 'target_net.module.0', 'neck': 'target_net.module.1'}
        state = {**student}
        for name, value in teacher.items():
            part, _, rest = name.partition('.')
            state[f'{inside[part]}.{rest}'] = value
        # What has had no update is replaced by its student at the first.
        state['target_net.steps'] = torch.tensor(1)
    else:
        state = {k: v for k, v in parts[weights].items() if k.startswith('backbone.')}
        heads = {name.rsplit('.', 2)[0] for name in parts[weights] if name not in state}
        left_out += [f'{who}_encoder' for who in WEIGHTS if who != weights] + sorted(heads)
    converted = {
        'state_dict': {name: value.clone() for name, value in state.items()},
        'meta': {
            CHECKPOINT_KEY: {
                'version': __version__,
                'checkpoint': source.name,
                'epochs': checkpoint.get('start_epoch'),
                'weights': 'both' if to == 'byol' else weights,
            }
        },
    }
    with whole_file('out', out) as file:
        torch.save(converted, file)
    return converted, left_out


def blocks(state: Mapping[str, Tensor]) -> str:
    """Residual blocks of each stage of a backbone, as ``'3-4-6-3'``."""
    found = [re.match(r'backbone\.layer(\d+)\.(\d+)\.', name) for name in state]
    stages = Counter(stage for stage, _ in {match.groups() for match in found if match})
    return '-'.join(str(stages[stage]) for stage in sorted(stages))


def _part(model: Mapping[str, Any], encoder: str, source: str) -> State:
    """One encoder by mmpretrain's names in the student's model."""
    # DistributedDataParallel's prefix is there where several GPUs trained it.
    pattern = re.compile(rf'(?:module\.)?{encoder}\.(.+)')
    found = {match[1]: value for name, value in model.items() if (match := pattern.match(name))}
    if not found:
        names = ', '.join(sorted({'.'.join(key.split('.')[:2]) for key in model})[:5])
        raise OptionError(f'checkpoint {source!r} must have a {encoder}, and has {names}')
    part: State = {}
    for name, value in found.items():
        module, _, last = name.rpartition('.')
        new = f'backbone.{module}' if _BACKBONE.fullmatch(module) else _HEADS.get(module, '')
        is_predictor = new.startswith('head.') and encoder != 'student_encoder'
        if not new or is_predictor or not isinstance(value, Tensor):
            raise OptionError(
                f'checkpoint {source!r} has {encoder}.{name}, which the released layout does not: '
                f'tensors of a ResNet with its projector (and predictor) as fc'
            )
        part[f'{new}.{last}'] = value
    return part


def _check_alike(student: State, teacher: State) -> None:
    """Raise OptionError unless teacher and student have the same tensors, but for the head."""
    for name in dict.fromkeys([*teacher, *student]):
        shapes = [
            tuple(part[name].shape) if name in part else 'none' for part in (teacher, student)
        ]
        if shapes[0] != shapes[1] and not name.startswith('head.'):
            raise OptionError(
                f'{name} must be in teacher and student with the same shape, got {shapes[0]} and '
                f'{shapes[1]}'
            )
