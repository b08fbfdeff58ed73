# SPDX-License-Identifier: Apache-2.0
"""Report what a config would update and how, without training or loading data.

``python tools/check_config.py configs/byol_sts_r50_8xb256.py``
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    from se_mm.engine.check import check_config
    from se_mm.engine.launch import add_common_options, load_config, merge_options, run_tool
except ImportError as error:  # Something is not installed, or installed twice.
    if os.environ.get('RANK', '0') == '0':
        print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Report what a config would update and how.')
    parser.add_argument('config', help='config file')
    add_common_options(parser)
    return parser.parse_args()


def main() -> None:
    """Check the config and print the report."""
    args = parse_args()
    cfg = load_config(args, ['model', 'train_dataloader', 'train_cfg', 'optim_wrapper'])
    merge_options(cfg, args)
    print(check_config(cfg))


if __name__ == '__main__':
    run_tool(main, 'interrupted: nothing was changed.')
