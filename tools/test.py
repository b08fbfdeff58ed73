# SPDX-License-Identifier: Apache-2.0
"""Test a checkpoint: ``python tools/test.py configs/linear_r50_8xb32.py CHECKPOINT``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Works from a checkout, too.

try:
    import mmengine

    from se_mm.engine.launch import (
        add_common_options,
        build_runner,
        load_config,
        merge_options,
        require_file,
        run_tool,
    )
    from se_mm.smoothing.options import OptionError
except ImportError as error:
    sys.exit(f'error: {error}')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Test a model.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='FILE', help='write the metrics to this json, yaml or pkl')
    add_common_options(parser)
    return parser.parse_args()


def main() -> None:
    """Test."""
    args = parse_args()
    if args.out and not args.out.endswith(('.json', '.yaml', '.yml', '.pkl', '.pickle')):
        raise OptionError(f'--out={args.out!r} is not allowed: a .json, .yaml or .pkl file.')
    cfg = load_config(args)
    cfg.load_from = require_file('checkpoint', args.checkpoint)
    if args.amp:
        cfg.test_cfg.fp16 = True
    merge_options(cfg, args)
    metrics = build_runner(cfg).test()
    if args.out:
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    run_tool(main, 'interrupted.')
