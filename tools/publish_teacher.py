# SPDX-License-Identifier: Apache-2.0
"""Extract the teacher or the student from a checkpoint, for mmpretrain and mmdet to load.

``python tools/publish_teacher.py CHECKPOINT OUT --weights teacher --prefix backbone``
"""

import argparse
import sys
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    import se_mm  # noqa: F401 -- lets PyTorch read MMEngine's checkpoints
    from se_mm.checkpoints.publish import WEIGHTS, publish
    from se_mm.engine.launch import run_tool
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


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


def main() -> None:
    """Write the weights and report what was written."""
    args = parse_args()
    published = publish(
        args.checkpoint,
        args.out,
        args.weights,
        args.prefix,
        args.overwrite,
        args.recalibrate,
        args.batches,
    )
    tensors = published['state_dict'].values()
    record = published['meta']['se_mm']
    source = f' ({record["teacher"]})' if record['teacher'] and args.weights == 'teacher' else ''
    print(
        f'{args.out}: the {args.weights}{source} of {args.checkpoint}, {len(tensors)} tensors, '
        f'{sum(tensor.numel() for tensor in tensors):,} numbers.'
    )


if __name__ == '__main__':
    run_tool(main, 'interrupted: nothing was written.')
