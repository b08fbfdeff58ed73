# SPDX-License-Identifier: Apache-2.0
"""Test a checkpoint: ``python tools/test.py configs/transfer/linear_r50_8xb32.py CHECKPOINT``."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    from mmengine.config import Config, ConfigDict
    from mmengine.dist import is_main_process
    from mmengine.evaluator import DumpResults
    from mmengine.fileio import dump

    from se_mm.datasets.detection_checks import check_evaluator_file
    from se_mm.engine.fit import FitHook
    from se_mm.engine.launch import (
        add_common_options,
        build_runner,
        load_config,
        merge_options,
        require_file,
        run_tool,
    )
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    if os.environ.get('RANK', '0') == '0':
        print(f'error: {error}', file=sys.stderr)
    sys.exit(2)

FORMATS = {'pred': ('.pkl', '.pickle'), 'metrics': ('.json', '.yaml', '.yml', '.pkl', '.pickle')}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Test a model.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='FILE', help='write results to this file')
    parser.add_argument(
        '--out-item',
        choices=list(FORMATS),
        default='pred',
        help='what --out writes: the predictions (.pkl) or the metrics (.json, .yaml, .pkl)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="use test-time augmentation, the config's tta_model and tta_pipeline",
    )
    parser.add_argument(
        '--no-check',
        action='store_true',
        help='test even if the checkpoint lacks parameters or was trained on other classes',
    )
    add_common_options(parser)
    return parser.parse_args()


def augment(cfg: Config) -> None:
    """Replace the test pipeline by the config's test-time augmentation."""
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise OptionError('--tta needs tta_model and tta_pipeline in the config')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def main() -> None:
    """Test the checkpoint."""
    args = parse_args()
    if args.out and not args.out.endswith(FORMATS[args.out_item]):
        raise OptionError(
            f'--out must end in {", ".join(FORMATS[args.out_item])} with '
            f'--out-item={args.out_item}, got {args.out!r}'
        )
    cfg = load_config(args, ['model', 'test_dataloader', 'test_evaluator'])
    cfg.load_from = require_file('checkpoint', args.checkpoint)
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.tta:
        augment(cfg)
    merge_options(cfg, args)
    check_evaluator_file(cfg, 'test')
    runner = build_runner(cfg)
    if args.out and args.out_item == 'pred':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    if not args.no_check:
        runner.register_hook(FitHook(testing=True))
    metrics = runner.test()
    if args.out and args.out_item == 'metrics' and is_main_process():
        dump(metrics, args.out)


if __name__ == '__main__':
    run_tool(main, 'interrupted.')
