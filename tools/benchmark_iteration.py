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
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]  # Lets it run from a checkout.

import benchmarking as bench  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.device import get_device  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import DATASETS, FUNCTIONS, HOOKS, init_default_scope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from se_mm.engine.launch import run_tool  # noqa: E402
from se_mm.home import find_config  # noqa: E402
from se_mm.smoothing.options import check_count  # noqa: E402

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

        def labels(count: int) -> torch.Tensor:
            return torch.randint(0, 10, (count,), device=get_device())

        many = 7 * images
        self.batches: list[dict[str, Any]] = []
        for _ in range(2):
            samples: Any = [DataSample() for _ in range(images)]
            inputs: Any = [pixels(images), pixels(images)]
            if method == 'fixmatch':
                samples = {'labels': labels(images), 'truth': labels(many)}
                inputs = {'labelled': pixels(images), 'views': [pixels(many), pixels(many)]}
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
    images = dict(method=args.method, images=args.batch_size, size=args.size)
    cfg.train_dataloader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='InfiniteSampler'),
        collate_fn=dict(type='the_batch'),
        dataset=dict(type='RandomBatches', **images),
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
    add = parser.add_argument
    add('--method', choices=CONFIGS, default='byol')
    add('--amp', action='store_true', help='use bfloat16')
    add('--channels-last', action='store_true', help='use the channels_last memory format')
    add('--cudnn-benchmark', action='store_true', help='set torch.backends.cudnn.benchmark')
    add('--iters', type=int, default=8, help='iterations per turn')
    add('--warm-up', type=int, default=12, help='untimed iterations; ten check for other updates')
    add('--turns', type=int, default=5, help='turns per contestant')
    add('--batch-size', type=int, default=4)
    add('--size', type=int, default=64, help='height and width of the images')
    add('--threads', type=int, default=2, help="PyTorch's threads on the CPU")
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
    where = bench.machine('cuda') if torch.cuda.is_available() else f'{args.threads} threads'
    how = [name for name in ('amp', 'channels_last', 'cudnn_benchmark') if getattr(args, name)]
    title = (
        f'{args.method}, {args.batch_size} images of {args.size} x {args.size}, '
        f'{", ".join(how) or "float32"}, {where}; {bench.versions()}; '
        f'medians of {args.iters * args.turns}.'
    )
    stock = medians[STOCK[args.method]]
    rows = [[name, f'{median:.1f}', f'{median / stock:.3f}'] for name, median in medians.items()]
    bench.print_table(title, ['teacher', 'ms per iteration', 'to the stock teacher'], rows)


def main() -> None:
    """Run the benchmark."""
    args = parse_args()
    for key in ('iters', 'turns', 'batch_size', 'size', 'threads', 'warm_up'):
        check_count(f'--{key.replace("_", "-")}', getattr(args, key), 1)
    bench.set_up(get_device(), args.threads)
    measure(args)


if __name__ == '__main__':
    run_tool(main, 'interrupted: no results yet.')
