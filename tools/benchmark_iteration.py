# SPDX-License-Identifier: Apache-2.0
"""Benchmark a whole training iteration, with each smoothing and without any.

    python tools/benchmark_iteration.py

BYOL with ResNet-50 is trained on random images by MMEngine's Runner. The contestants take turns of
a few iterations each. The table has the median time of an iteration, without data loading, and its
ratio to that of the stock config.
"""

from __future__ import annotations

import argparse
import copy
import logging
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Lets it run from a checkout.

from mmengine.config import Config  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import DATASETS, HOOKS, init_default_scope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

import se_mm  # noqa: E402
from se_mm.engine.launch import run_tool  # noqa: E402
from se_mm.smoothing import OptionError  # noqa: E402

CONFIG = f'{ROOT}/configs/byol_se_r50_8xb256.py'
STOCK = "stock config (mmpretrain's CosineEMA)"
CONTESTANTS: dict[str, list[dict[str, Any]]] = {
    STOCK: [],
    'no teacher update': [dict(type='NoUpdate')],
    'TMA (SETMAHook, keep_prob=0)': [dict(type='SETMAHook', keep_prob=0)],
    'SE': [dict(type='SpatialEnsembleHook', keep_prob=0.99)],
    'STS': [dict(type='SETMAHook', keep_prob=0.7)],
    'STS, element units': [dict(type='SETMAHook', keep_prob=0.7, granularity='element')],
}


@DATASETS.register_module()
class RandomViews(Dataset):
    """Two views of random pixels, made once."""

    metainfo: dict[str, Any] = {}

    def __init__(self, images: int, size: int) -> None:
        self.views = torch.randint(0, 256, (images, 2, 3, size, size), dtype=torch.uint8)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.views)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Both views of an image."""
        from mmpretrain.structures import DataSample

        return {'inputs': list(self.views[index]), 'data_samples': DataSample()}


@HOOKS.register_module()
class NoUpdate(Hook):
    """Leaves the teacher as it is."""

    def before_train(self, runner: Runner) -> None:
        """Replace the model's teacher update by a function that does nothing."""
        runner.model.target_net.update_parameters = lambda model: None


@HOOKS.register_module()
class Stopwatch(Hook):
    """Measures the time of every iteration, including other hooks."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def before_train_iter(self, runner: Runner, **_: Any) -> None:
        """Start, before any other hook."""
        self._wait()
        self._start = time.perf_counter()

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        """Stop before all other hooks except those that update a teacher after the iteration."""
        self._wait()
        self.times.append(time.perf_counter() - self._start)

    def _wait(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def times_of(hooks: list[dict[str, Any]], args: argparse.Namespace, folder: str) -> list[float]:
    """Return the seconds of each iteration, without the first two."""
    cfg = Config.fromfile(CONFIG)
    cfg.custom_hooks = [*copy.deepcopy(hooks), dict(type='Stopwatch', priority='VERY_LOW')]
    cfg.default_hooks = dict.fromkeys(
        ('timer', 'logger', 'param_scheduler', 'checkpoint', 'sampler_seed')
    )
    cfg.param_scheduler = None
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=args.iters + 2)
    cfg.train_dataloader = dict(
        batch_size=args.batch_size,
        num_workers=0,
        sampler=dict(type='InfiniteSampler'),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='RandomViews', images=2 * args.batch_size, size=args.size),
    )
    cfg.work_dir, cfg.log_level, cfg.visualizer = folder, 'ERROR', None
    init_default_scope('mmpretrain')
    runner = Runner.from_cfg(cfg)
    runner.train()
    (watch,) = (hook for hook in runner.hooks if isinstance(hook, Stopwatch))
    return watch.times[2:]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--iters', type=int, default=8, help='iterations per turn')
    parser.add_argument('--turns', type=int, default=5, help='turns of each contestant')
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--size', type=int, default=64, help='height and width of the images')
    parser.add_argument('--threads', type=int, default=2, help="PyTorch's threads on the CPU")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    args = parse_args()
    for key, value in vars(args).items():
        if value < 1:
            raise OptionError(f'--{key.replace("_", "-")} must be an integer >= 1, got {value}')
    logging.disable(logging.WARNING)
    warnings.filterwarnings('ignore')
    torch.set_num_threads(args.threads)
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.turns):
            for name, hooks in CONTESTANTS.items():
                times[name] += times_of(hooks, args, folder)
    medians = {name: 1e3 * statistics.median(some) for name, some in times.items()}
    print(
        f'BYOL, ResNet-50, {args.batch_size} images of {args.size} x {args.size}, {args.threads} '
        f'threads; Python {platform.python_version()}, torch {torch.__version__}, se_mm '
        f'{se_mm.__version__}; medians of {args.iters * args.turns}.\n'
    )
    print('| teacher | ms an iteration | to the stock config |\n|---|---|---|')
    for name, median in medians.items():
        print(f'| {name} | {median:.1f} | {median / medians[STOCK]:.3f} |')


if __name__ == '__main__':
    run_tool(main, 'interrupted: no results yet.')
