# SPDX-License-Identifier: Apache-2.0
"""Benchmark a whole training iteration, with each teacher update and without any.

    python tools/benchmark_iteration.py
    python tools/benchmark_iteration.py --method fixmatch --amp --channels-last

BYOL with ResNet-50, or FixMatch with WRN-28-2 and seven unlabelled images for each labelled one, is
trained on random images by MMEngine's Runner, on the GPU if there is one. The contestants take
turns of a few iterations each. The table has the median time of an iteration, without data loading,
and its ratio to that of the stock teacher.
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
from mmengine.device import get_device  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import DATASETS, FUNCTIONS, HOOKS, init_default_scope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

import se_mm  # noqa: E402
from se_mm.engine.launch import run_tool  # noqa: E402
from se_mm.home import find_config  # noqa: E402
from se_mm.smoothing import OptionError  # noqa: E402

STOCK = {
    'byol': "stock config (mmpretrain's CosineEMA)",
    'fixmatch': "mmengine's EMAHook",
}
CONFIGS = {
    'byol': 'byol_se_r50_8xb256.py',
    'fixmatch': 'fixmatch_sts_wrn28-2_1xb64_cifar10-40.py',
}
Hooks = list[dict[str, Any]]


def contestants(method: str) -> dict[str, Hooks]:
    """Return the contestants of a method: name -> hooks."""
    stock: Hooks = [] if method == 'byol' else [dict(type='EMAHook', momentum=0.001)]
    momentum = {} if method == 'byol' else dict(momentum=0.001)
    return {
        STOCK[method]: stock,
        'no teacher update': [dict(type='NoUpdate')] if method == 'byol' else [],
        'TMA (SETMAHook, keep_prob=0)': [dict(type='SETMAHook', keep_prob=0, **momentum)],
        'SE': [dict(type='SpatialEnsembleHook', keep_prob=0.99)],
        'STS': [dict(type='SETMAHook', keep_prob=0.7, **momentum)],
        'STS, element units': [
            dict(type='SETMAHook', keep_prob=0.7, granularity='element', **momentum)
        ],
    }


@DATASETS.register_module()
class RandomBatches(Dataset):
    """Two batches of random pixels, made once, on the device where the model is.

    Args:
        method: ``'byol'``: two views of each image; ``'fixmatch'``: labelled images, and two views
            of seven times as many.
        images: Images of a batch, or labelled ones.
        size: Their height and width.
    """

    metainfo: dict[str, Any] = {}

    def __init__(self, method: str, images: int, size: int) -> None:
        from mmpretrain.structures import DataSample

        def pixels(count: int) -> torch.Tensor:
            shape = count, 3, size, size
            return torch.randint(0, 256, shape, dtype=torch.uint8, device=get_device())

        self.batches: list[dict[str, Any]] = []
        for _ in range(2):
            if method == 'byol':
                samples: Any = [DataSample() for _ in range(images)]
                inputs: Any = [pixels(images), pixels(images)]
            else:
                samples = {
                    name: torch.randint(0, 10, (count,), device=get_device())
                    for name, count in (('labels', images), ('truth', 7 * images))
                }
                inputs = {
                    'labelled': pixels(images),
                    'views': [pixels(7 * images), pixels(7 * images)],
                }
            self.batches.append({'inputs': inputs, 'data_samples': samples})

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A batch."""
        return self.batches[index]


@FUNCTIONS.register_module()
def the_batch(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate a batch that is one already."""
    return batches[0]


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


def times_of(hooks: Hooks, args: argparse.Namespace, folder: str) -> list[float]:
    """Return the seconds of each iteration, without those of the warm-up."""
    cfg = Config.fromfile(find_config(CONFIGS[args.method]))
    cfg.custom_hooks = [*copy.deepcopy(hooks), dict(type='Stopwatch', priority='VERY_LOW')]
    if args.channels_last:
        cfg.custom_hooks.append(dict(type='ChannelsLastHook'))
    if args.amp:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    cfg.default_hooks = dict.fromkeys(
        ('timer', 'logger', 'param_scheduler', 'checkpoint', 'sampler_seed')
    )
    cfg.param_scheduler = cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=args.iters + args.warm_up)
    cfg.train_dataloader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='InfiniteSampler'),
        collate_fn=dict(type='the_batch'),
        dataset=dict(
            type='RandomBatches', method=args.method, images=args.batch_size, size=args.size
        ),
    )
    cfg.env_cfg = dict(cudnn_benchmark=args.cudnn_benchmark, dist_cfg=dict(backend='nccl'))
    cfg.work_dir, cfg.log_level, cfg.visualizer = folder, 'ERROR', None
    init_default_scope('mmpretrain')
    runner = Runner.from_cfg(cfg)
    runner.train()
    (watch,) = (hook for hook in runner.hooks if isinstance(hook, Stopwatch))
    return watch.times[args.warm_up :]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--method', choices=CONFIGS, default='byol')
    parser.add_argument('--amp', action='store_true', help='use bfloat16')
    parser.add_argument(
        '--channels-last', action='store_true', help='use the channels_last memory format'
    )
    parser.add_argument(
        '--cudnn-benchmark', action='store_true', help='set torch.backends.cudnn.benchmark'
    )
    parser.add_argument('--iters', type=int, default=8, help='iterations per turn')
    parser.add_argument(
        '--warm-up',
        type=int,
        default=12,
        help='untimed iterations; the first ten also check for other updates of the teacher',
    )
    parser.add_argument('--turns', type=int, default=5, help='turns per contestant')
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--size', type=int, default=64, help='height and width of the images')
    parser.add_argument('--threads', type=int, default=2, help="PyTorch's threads on the CPU")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> None:
    """Time all contestants and print their table."""
    teams = contestants(args.method)
    times: dict[str, list[float]] = {name: [] for name in teams}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.turns):
            for name, hooks in teams.items():
                times[name] += times_of(hooks, args, folder)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
    medians = {name: 1e3 * statistics.median(some) for name, some in times.items()}
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{args.threads} threads'
    how = [name for name in ('amp', 'channels_last', 'cudnn_benchmark') if getattr(args, name)]
    print(
        f'{args.method}, {args.batch_size} images of {args.size} x {args.size}, '
        f'{", ".join(how) or "float32"}, {where}; Python {platform.python_version()}, torch '
        f'{torch.__version__}, se_mm {se_mm.__version__}; medians of {args.iters * args.turns}.\n'
    )
    print('| teacher | ms per iteration | to the stock teacher |\n|---|---|---|')
    for name, median in medians.items():
        print(f'| {name} | {median:.1f} | {median / medians[STOCK[args.method]]:.3f} |', flush=True)


def main() -> None:
    """Run the benchmark."""
    args = parse_args()
    for key in ('iters', 'turns', 'batch_size', 'size', 'threads', 'warm_up'):
        value = getattr(args, key)
        if value < 1:
            raise OptionError(f'--{key.replace("_", "-")} must be an integer >= 1, got {value}')
    logging.disable(logging.WARNING)
    warnings.filterwarnings('ignore')
    torch.set_num_threads(args.threads)
    measure(args)


if __name__ == '__main__':
    run_tool(main, 'interrupted: no results yet.')
