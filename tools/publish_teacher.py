# SPDX-License-Identifier: Apache-2.0
"""Extract the teacher or the student from a checkpoint, for mmpretrain and mmdet to load.

``python tools/publish_teacher.py CHECKPOINT OUT --weights teacher --prefix backbone``

Tensors keep their names: load a part with ``init_cfg=dict(..., prefix='backbone.')``.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    import torch
    from mmengine.config import Config

    from se_mm.checkpoints.read import read_checkpoint
    from se_mm.checkpoints.teacher_and_student import (
        State,
        TeacherAndStudent,
        children,
        teacher_and_student,
    )
    from se_mm.checkpoints.write import check_out, whole_file
    from se_mm.engine.fit import check_when_loaded
    from se_mm.engine.hooks.recalibrate import check_batches, statistics
    from se_mm.engine.hooks.record import CHECKPOINT_KEY
    from se_mm.engine.launch import build_runner, config_file, run_tool
    from se_mm.smoothing.options import OptionError, check_count, did_you_mean
    from se_mm.teachers import plain_model
    from se_mm.version import __version__
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)

WEIGHTS = ('teacher', 'student')


def parse_args(args: Optional[list[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Extract the teacher or the student from a training checkpoint.'
    )
    parser.add_argument('checkpoint', help='the training checkpoint')
    parser.add_argument('out', help='the file to write')
    parser.add_argument('--weights', choices=WEIGHTS, required=True, help='the network to extract')
    parser.add_argument(
        '--prefix',
        nargs='+',
        default=[],
        metavar='NAME',
        help='extract only these parts, named as in the student, such as backbone',
    )
    parser.add_argument(
        '--recalibrate',
        metavar='CONFIG',
        help="recompute the teacher's batch-norm statistics on training batches of this config",
    )
    parser.add_argument(
        '--batches', type=int, default=50, help='training batches for --recalibrate'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    return parser.parse_args(args)


def publish(args: argparse.Namespace) -> dict[str, Any]:
    """Write the teacher or the student, and return the written checkpoint."""
    source, out, weights = Path(args.checkpoint), Path(args.out), args.weights
    check_out(source, out, args.overwrite)
    checkpoint = read_checkpoint(source)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise OptionError(f'checkpoint {str(source)!r} must have a state_dict, got none')
    found = teacher_and_student(checkpoint)
    if weights == 'teacher' and found.kind is None:
        raise OptionError(
            f'weights={weights!r} needs a teacher, but {str(source)!r} has only one model, with '
            f'{", ".join(children(found.student))}'
        )
    state = found.teacher if weights == 'teacher' else found.student
    if args.recalibrate is not None:
        if weights != 'teacher':
            raise OptionError(f"recalibrate needs weights='teacher', got {weights!r}")
        check_count('batches', args.batches, 1)
        state = state | recalibrated(checkpoint['state_dict'], found, args)
    meta = checkpoint.get('meta') or {}
    published = {
        # A view would be saved with its whole storage.
        'state_dict': {name: value.clone() for name, value in chosen(state, args.prefix).items()},
        'meta': {
            **{key: meta[key] for key in ('dataset_meta', 'epoch', 'iter') if key in meta},
            CHECKPOINT_KEY: {
                'version': __version__,
                'checkpoint': source.name,
                'sha256': hashlib.sha256(source.read_bytes()).hexdigest(),
                'weights': weights,
                'prefixes': args.prefix,
                'recalibrated_on': args.batches if args.recalibrate else None,
                'teacher': found.kind,
                'hook': checkpoint.get(CHECKPOINT_KEY),
            },
        },
    }
    with whole_file('out', out) as file:
        torch.save(published, file)
    return published


@torch.no_grad()
def recalibrated(state: State, found: TeacherAndStudent, args: argparse.Namespace) -> State:
    """Compute the statistics of the teacher's batch norms on training batches, by its names."""
    cfg = Config.fromfile(config_file(args.recalibrate))
    with TemporaryDirectory() as folder:
        cfg.update(work_dir=folder, launcher='none', log_level='WARNING')
        runner = build_runner(cfg)
        check_batches(runner)
        network = plain_model(runner.model)
        start = f'{found.path}.' if found.path else ''
        teacher = {start + name: value for name, value in found.teacher.items()}
        held = state | teacher
        check_when_loaded(network, held, args.checkpoint)
        network.load_state_dict(held, strict=False)
        new = statistics(runner, network, teacher, args.batches, runner.seed)
    return {name[len(start) :]: value.to(teacher[name]) for name, value in new.items()}


def chosen(state: State, prefixes: list[str]) -> State:
    """Return the tensors of the parts that the prefixes name; all without prefixes."""
    if not prefixes:
        return state
    parts: State = {}
    for prefix in prefixes:
        part = {name: value for name, value in state.items() if name.startswith(f'{prefix}.')}
        if not part:
            modules = {name[: dot.start()] for name in state for dot in re.finditer(r'\.', name)}
            raise OptionError(
                f'prefix={prefix!r} must be a part of the network, which has '
                f'{", ".join(children(state))}.{did_you_mean(prefix, modules)}'
            )
        parts |= part
    return parts


def main() -> None:
    """Write the weights and report what was written."""
    args = parse_args()
    published = publish(args)
    tensors = published['state_dict'].values()
    record = published['meta']['se_mm']
    source = f' ({record["teacher"]})' if record['teacher'] and args.weights == 'teacher' else ''
    print(
        f'{args.out}: the {args.weights}{source} of {args.checkpoint}, {len(tensors)} tensors, '
        f'{sum(tensor.numel() for tensor in tensors):,} numbers.'
    )


if __name__ == '__main__':
    run_tool(main, 'interrupted: nothing was written.')
