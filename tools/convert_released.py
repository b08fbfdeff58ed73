# SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint of the code released with the paper to mmpretrain's format.

``python tools/convert_released.py last_epoch_ckpt.pth.tar byol.pth --to byol``
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    import se_mm  # noqa: F401 -- lets PyTorch read checkpoints
    from se_mm.checkpoints.convert import FORMATS, WEIGHTS, blocks, convert
    from se_mm.engine.launch import run_tool
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Convert a checkpoint of the released code to mmpretrain's format."
    )
    parser.add_argument('checkpoint', help='the released checkpoint')
    parser.add_argument('out', help='the file to write')
    parser.add_argument(
        '--to', choices=FORMATS, required=True, help='the whole BYOL model, or a backbone'
    )
    parser.add_argument(
        '--weights',
        choices=WEIGHTS,
        default='teacher',
        help='the network whose backbone is extracted',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    return parser.parse_args()


def main() -> None:
    """Convert the checkpoint and report what was converted."""
    args = parse_args()
    converted, left_out = convert(args.checkpoint, args.out, args.to, args.weights, args.overwrite)
    state = converted['state_dict']
    what = 'BYOL' if args.to == 'byol' else f"the {args.weights}'s backbone"
    print(f'{args.out}: {what} of {args.checkpoint}, {len(state)} tensors, ResNet {blocks(state)}.')
    if args.to == 'byol':
        print(
            'load it into a BYOL model with model.neck.with_last_bias=True '
            'model.head.predictor.with_last_bias=True.'
        )
    if left_out:
        print(f'left out: {", ".join(left_out)}.')


if __name__ == '__main__':
    run_tool(main, 'interrupted: nothing was written.')
