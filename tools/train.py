# SPDX-License-Identifier: Apache-2.0
"""Train a config: ``python tools/train.py configs/byol_sts_r50_8xb256.py``."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    from mmengine.config import Config

    from se_mm.engine.check import check_runner
    from se_mm.engine.fit import FitHook
    from se_mm.engine.launch import (
        add_common_options,
        build_runner,
        load_config,
        merge_options,
        resume_from,
        resume_option,
        run_tool,
    )
    from se_mm.engine.trial import TrialHook
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    if os.environ.get('RANK', '0') == '0':
        print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a model.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint; without a value, from the last one in the work dir',
    )
    parser.add_argument('--no-validate', action='store_true', help='do not validate while training')
    parser.add_argument(
        '--no-check', action='store_true', help='skip the trial validation before training'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by actual batch size / auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--no-persistent-workers', action='store_true', help='start new workers every epoch'
    )
    add_common_options(parser)
    return parser.parse_args()


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the command line options to the config."""
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.no_persistent_workers:
        for name, loader in cfg.items():
            if name.endswith('_dataloader') and loader is not None:
                loader.persistent_workers = False
    merge_options(cfg, args)


def main() -> None:
    """Train the model."""
    args = parse_args()
    cfg = load_config(args, ['model', 'train_dataloader', 'train_cfg', 'optim_wrapper'])
    apply_options(cfg, args)
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise OptionError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    resume_from(cfg, resume_option(cfg, args.resume))
    runner = build_runner(cfg)
    check_runner(runner)
    runner.register_hook(FitHook(testing=False))
    if not args.no_check:
        runner.register_hook(TrialHook())
    runner.train()


if __name__ == '__main__':
    run_tool(main, 'interrupted: use the same command with --resume to continue.')
