# SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint of the code released with the paper to mmpretrain's BYOL.

``python tools/convert_released.py last_epoch_ckpt.pth.tar byol.pth``

That code (https://github.com/tengteng95/Spatial_Ensemble) saves ``model`` with two parts,
``student_encoder`` and ``teacher_encoder``. Each is a ResNet with torchvision's names whose ``fc``
is the projector, followed in the student by the predictor.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    import torch

    from se_mm.checkpoints.read import read_checkpoint
    from se_mm.checkpoints.write import check_out, whole_file
    from se_mm.engine.launch import run_tool
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)

BACKBONE = re.compile(r'conv1|bn1|layer\d+\.\d+\.(conv\d|bn\d|downsample\.\d)')
# The sequence ``fc`` is linear, norm, ReLU, linear (the projector), and again (the predictor).
PROJECTOR = {'fc.0': 'fc0', 'fc.1': 'bn0', 'fc.3': 'fc1'}
PREDICTOR = {'fc.4': 'fc0', 'fc.5': 'bn0', 'fc.7': 'fc1'}
STUDENT = {
    **{name: f'neck.{new}' for name, new in PROJECTOR.items()},
    **{name: f'head.predictor.{new}' for name, new in PREDICTOR.items()},
}
TEACHER = {name: f'target_net.module.1.{new}' for name, new in PROJECTOR.items()}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Convert a checkpoint of the released code to mmpretrain's BYOL."
    )
    parser.add_argument('checkpoint', help='the released checkpoint')
    parser.add_argument('out', help='the file to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    return parser.parse_args()


def convert(
    source: Union[str, Path], out: Union[str, Path], overwrite: bool = False
) -> dict[str, torch.Tensor]:
    """Convert a released checkpoint and return the state dict that was written.

    It is one of a BYOL with ``with_last_bias=True`` in neck and predictor, since the released
    projector and predictor have that bias.
    """
    source, out = Path(source), Path(out)
    check_out(source, out, overwrite)
    checkpoint = read_checkpoint(source)
    model = checkpoint.get('model') if isinstance(checkpoint, Mapping) else None
    if not isinstance(model, Mapping):
        raise OptionError(f"checkpoint {str(source)!r} must have a 'model', got none")
    state = {
        **rename(model, 'student_encoder', 'backbone', STUDENT),
        **rename(model, 'teacher_encoder', 'target_net.module.0', TEACHER),
        # Before its first update, a teacher would be replaced by its student.
        'target_net.steps': torch.tensor(1),
    }
    with whole_file('out', out) as file:
        torch.save({'state_dict': state, 'meta': {}}, file)
    return state


def rename(
    model: Mapping[str, Any], encoder: str, backbone: str, heads: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Return the tensors of an encoder by their names in BYOL, given those of its parts."""
    # The prefix is that of DistributedDataParallel.
    pattern = re.compile(rf'(?:module\.)?{encoder}\.(.+)\.(\w+)')
    state = {}
    for key, value in model.items():
        if match := pattern.fullmatch(key):
            module, tensor = match.groups()
            new = f'{backbone}.{module}' if BACKBONE.fullmatch(module) else heads.get(module)
            if new is None:
                raise OptionError(
                    f'{encoder} must be a ResNet whose fc is the projector (and predictor), got '
                    f'{key!r}'
                )
            state[f'{new}.{tensor}'] = value
    if not state:
        names = ', '.join(sorted({'.'.join(key.split('.')[:2]) for key in model})[:5])
        raise OptionError(f"'model' must have a {encoder}, got {names}")
    return state


def main() -> None:
    """Convert the checkpoint and say how to load it."""
    args = parse_args()
    state = convert(args.checkpoint, args.out, args.overwrite)
    print(f'{args.out}: BYOL of {args.checkpoint}, {len(state)} tensors.')
    print(
        'load it into a BYOL model with model.neck.with_last_bias=True '
        'model.head.predictor.with_last_bias=True.'
    )


if __name__ == '__main__':
    run_tool(main, 'interrupted: nothing was written.')
