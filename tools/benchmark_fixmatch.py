# SPDX-License-Identifier: Apache-2.0
"""Benchmark FixMatch in iterations per second against two public PyTorch implementations.

Their code is not part of this project: pass the folders of clones of
github.com/kekmodel/FixMatch-pytorch and github.com/TorchSSL/TorchSSL.

    python tools/benchmark_fixmatch.py --kekmodel FOLDER --torchssl FOLDER

Each contestant trains a WRN on CIFAR-10's files in its own process, with its own loaders, views,
losses, optimizer, average and training loop; they take turns. Without --data-root the images are
random pixels, which take the same time. A second table has the throughput of the views of
unlabelled images alone, from array to tensors, since this limits training on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]  # Lets it run from a checkout.

# Contestant -> the labeller and the strong view.
OURS = {
    'se_mm': ('teacher', 'randaugment_2_10'),
    'se_mm, as kekmodel': ('student', 'randaugment_2_10'),
    'se_mm, as TorchSSL': ('student', 'randaugment_3_5'),
}
PEERS = {
    'kekmodel': ('student', 'randaugment_2_10'),
    'TorchSSL': ('student', 'randaugment_3_5'),
}
NEEDED = {'kekmodel': 'dataset/cifar.py', 'TorchSSL': 'models/fixmatch/fixmatch.py'}
CONFIG = ROOT / 'configs/fixmatch/fixmatch_tma_wrn28-2_1xb64_cifar10-40.py'
VIEWS = 2000


class Enough(Exception):
    """Raised when all iterations have been made."""


class Clock:
    """A dataloader that records when each batch is requested, and ends the run after the last.

    Its iterators also have the method ``next``, as PyTorch's used to.
    """

    def __init__(self, loader: Any, batches: int) -> None:
        self.loader = loader
        self.batches = batches
        self.stamps: list[float] = []
        self._iterator: Iterator | None = None

    def __iter__(self) -> Clock:
        self._iterator = iter(self.loader)
        return self

    def __next__(self) -> Any:
        self.stamps.append(time.perf_counter())
        if len(self.stamps) > self.batches:
            raise Enough
        try:
            return next(self._iterator)
        except StopIteration:
            self._iterator = iter(self.loader)
            return next(self._iterator)

    next = __next__


def write_cifar10(folder: Path, images_per_file: int = 10000) -> None:
    """Write CIFAR-10's six files with random pixels.

    All images are written, since their number affects the time: kekmodel's loader restarts after
    each pass over them, and TorchSSL counts all their labels in every iteration.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    folder = folder / 'cifar-10-batches-py'
    folder.mkdir()
    for name in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'):
        images = rng.integers(0, 256, (images_per_file, 3072), np.uint8)
        content = {'data': images, 'labels': [i % 10 for i in range(images_per_file)]}
        (folder / name).write_bytes(pickle.dumps(content))
    classes = [str(i) for i in range(10)]
    (folder / 'batches.meta').write_bytes(pickle.dumps({'label_names': classes}))


def accept_any_checksum(folder: Path) -> None:
    """Make torchvision and mmpretrain accept files that are not the original CIFAR-10."""
    import torchvision
    from mmpretrain.datasets import CIFAR10

    torchvision.datasets.cifar.check_integrity = lambda *_, **__: True
    for names in (CIFAR10.train_list, CIFAR10.test_list):
        for entry in names:
            content = (folder / CIFAR10.base_folder / entry[0]).read_bytes()
            entry[1] = hashlib.md5(content).hexdigest()
    CIFAR10._check_integrity = lambda _: True


def without_gpu() -> None:
    """Make code that moves everything to a GPU run on the CPU if there is none."""
    import torch

    if torch.cuda.is_available():
        return
    event = types.SimpleNamespace(record=lambda: None, elapsed_time=lambda _: 0.0)
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.Event = lambda **_: event


def without(*modules: str) -> None:
    """Replace missing modules that a peer imports but does not need here by empty ones."""
    for name in modules:
        try:
            __import__(name)
        except ImportError:
            stand_in = types.ModuleType(name)
            stand_in.SummaryWriter = object
            sys.modules[name] = stand_in


def synchronise() -> None:
    """Wait until the GPU, if there is one, has completed all queued work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ours_config(args: argparse.Namespace) -> Any:
    """Return the config of se_mm with the options of the command line."""
    from mmengine.config import Config

    labeller, strong = OURS[args.contestant]
    cfg = Config.fromfile(CONFIG)
    views = Config.fromfile(ROOT / f'configs/_base_/{strong}.py').randaugment
    weak = cfg.weak
    dataset = cfg.train_dataloader.dataset
    dataset.labelled.data_root = str(args.data_root)
    dataset.unlabelled_pipeline[0].transforms = [weak, [*weak, *views]]
    cfg.model.labeller = labeller
    cfg.model.classifier.backbone.update(depth=args.depth, width=args.width)
    cfg.model.classifier.head.in_channels = 64 * args.width
    cfg.train_dataloader.update(batch_size=args.batch_size, num_workers=args.workers)
    cfg.train_dataloader.batch_sampler.mu = args.mu
    if not args.workers:
        cfg.train_dataloader.persistent_workers = False
    # One more iteration than is timed: timing from the start of one iteration to the start of
    # another counts as many fetched batches as iterations, as in the peers' loops.
    cfg.train_cfg.max_iters = args.warm_up + args.iters + 1
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.default_hooks.checkpoint = None
    cfg.merge_from_dict(dict(launcher='none', work_dir=str(args.scratch), log_level='ERROR'))
    return cfg


def train_ours(args: argparse.Namespace) -> list[float]:
    """Return the start times of the iterations of se_mm."""
    from mmengine.hooks import Hook

    from se_mm.engine.launch import build_runner

    stamps: list[float] = []

    class Stamp(Hook):
        def before_train_iter(self, *_: Any, **__: Any) -> None:
            if len(stamps) in (args.warm_up, args.warm_up + args.iters):
                synchronise()
            stamps.append(time.perf_counter())

    runner = build_runner(ours_config(args))
    runner.register_hook(Stamp(), priority='HIGHEST')
    runner.train()
    return stamps


def train_kekmodel(args: argparse.Namespace) -> list[float]:
    """Return the start times of the iterations of kekmodel/FixMatch-pytorch, in its own loop."""
    import torch
    from torch.utils.data import DataLoader, RandomSampler

    without('tensorboard', 'torch.utils.tensorboard')
    sys.path.insert(0, str(args.folder))
    import train
    from dataset.cifar import DATASET_GETTERS
    from models.ema import ModelEMA
    from models.wideresnet import build_wideresnet

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    options = argparse.Namespace(
        num_labeled=40, num_classes=10, expand_labels=True, batch_size=args.batch_size,
        eval_step=1024, mu=args.mu, T=1, threshold=0.95, lambda_u=1, amp=False, use_ema=True,
        world_size=1, local_rank=-1, start_epoch=0, epochs=1, no_progress=True, device=device,
    )  # fmt: skip
    labelled, unlabelled, test = DATASET_GETTERS['cifar10'](options, str(args.data_root))

    def loader(dataset: Any, size: int) -> DataLoader:
        return DataLoader(
            dataset, size, sampler=RandomSampler(dataset), num_workers=args.workers, drop_last=True
        )

    clock = Clock(loader(labelled, args.batch_size), args.warm_up + args.iters)
    other = Clock(loader(unlabelled, args.batch_size * args.mu), sys.maxsize)
    model = build_wideresnet(args.depth, args.width, 0, 10).to(device)
    decay = [p for n, p in model.named_parameters() if 'bias' not in n and 'bn' not in n]
    others = [p for n, p in model.named_parameters() if 'bias' in n or 'bn' in n]
    groups = [{'params': decay, 'weight_decay': 5e-4}, {'params': others, 'weight_decay': 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.03, momentum=0.9, nesterov=True)
    schedule = train.get_cosine_schedule_with_warmup(optimizer, 0, 2**20)
    average = ModelEMA(options, model, 0.999)
    with contextlib.suppress(Enough):
        train.train(options, clock, other, test, model, optimizer, average, schedule)
    return clock.stamps


def torchssl_options(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options that TorchSSL's command line would set; it writes to its work dir."""
    (args.scratch / 'run').mkdir(exist_ok=True)
    os.chdir(args.scratch)
    return argparse.Namespace(
        resume=False, amp=False, clip=0, gpu=None, num_classes=10, num_train_iter=2**20,
        hard_label=True, multiprocessing_distributed=False, dataset='cifar10', seed=0,
        save_dir=str(args.scratch), save_name='run',
    )  # fmt: skip


def train_torchssl(args: argparse.Namespace) -> list[float]:
    """Return the start times of the iterations of TorchSSL, in its own loop."""
    without('pandas', 'tensorboard', 'torch.utils.tensorboard', 'custom_writer')
    sys.modules['custom_writer'].CustomWriter = object
    without_gpu()
    sys.path.insert(0, str(args.folder))
    from datasets.data_utils import get_data_loader
    from datasets.ssl_dataset import SSL_Dataset
    from models.fixmatch.fixmatch import FixMatch
    from models.nets.wrn import build_WideResNet
    from train_utils import get_cosine_schedule_with_warmup, get_optimizer

    options = torchssl_options(args)
    dataset = SSL_Dataset(options, name='cifar10', train=True, data_dir=str(args.data_root))
    labelled, unlabelled = dataset.get_ssl_dset(40)
    network = build_WideResNet(1, args.depth, args.width, 0.001, 0.1, 0.0)
    method = FixMatch(network.build, 10, 0.999, 0.5, 0.95, 1.0, num_eval_iter=sys.maxsize)
    method.model.cuda()
    method.it = 1  # Iteration 0 would be saved and evaluated.
    method.set_dset(unlabelled)
    optimizer = get_optimizer(method.model, 'SGD', 0.03, 0.9, 5e-4)
    method.set_optimizer(optimizer, get_cosine_schedule_with_warmup(optimizer, 2**20))

    def loader(part: Any, size: int) -> Any:
        return get_data_loader(
            part, size, data_sampler='RandomSampler', num_iters=2**14, num_workers=args.workers
        )

    clock = Clock(loader(labelled, args.batch_size), args.warm_up + args.iters)
    method.set_data_loader(
        {'train_lb': clock, 'train_ulb': loader(unlabelled, args.batch_size * args.mu)}
    )
    with contextlib.suppress(Enough):
        method.train(options)
    return clock.stamps


def unlabelled_images(args: argparse.Namespace) -> Callable[[int], Any]:
    """Return a function that makes the views of an unlabelled image, given its index."""
    if args.contestant in OURS:
        from mmengine.registry import init_default_scope

        from se_mm.datasets import SemiSupervisedDataset

        init_default_scope('mmpretrain')
        config = dict(ours_config(args).train_dataloader.dataset)
        config.pop('type')
        dataset = SemiSupervisedDataset(**config)
        labelled, unlabelled = dataset.source_sizes
        return lambda index: dataset[labelled + index % unlabelled]
    sys.path.insert(0, str(args.folder))
    if args.contestant == 'kekmodel':
        from dataset.cifar import DATASET_GETTERS

        options = argparse.Namespace(
            num_labeled=40, num_classes=10, expand_labels=False, batch_size=8, eval_step=8
        )
        return DATASET_GETTERS['cifar10'](options, str(args.data_root))[1].__getitem__
    from datasets.ssl_dataset import SSL_Dataset

    options = torchssl_options(args)
    dataset = SSL_Dataset(options, name='cifar10', train=True, data_dir=str(args.data_root))
    return dataset.get_ssl_dset(40)[1].__getitem__


def measure(args: argparse.Namespace) -> None:
    """Run as one contestant, and print the measured rate."""
    import torch

    torch.set_num_threads(args.threads)
    accept_any_checksum(args.data_root)
    if args.views:
        image = unlabelled_images(args)
        for index in range(100):
            image(index)
        begin = time.process_time()
        for index in range(VIEWS):
            image(index)
        print(json.dumps(VIEWS / (time.process_time() - begin)))
        return
    train = {'kekmodel': train_kekmodel, 'TorchSSL': train_torchssl}.get(
        args.contestant, train_ours
    )
    stamps = train(args)[args.warm_up :]
    print(json.dumps(args.iters / (stamps[args.iters] - stamps[0])))


def rate(args: argparse.Namespace, name: str, *options: str) -> float:
    """Measure a contestant in its own process.

    Raises:
        RuntimeError: If the process fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = {'kekmodel': args.kekmodel, 'TorchSSL': args.torchssl}.get(name)
        words = [sys.executable, __file__, '--contestant', name, '--scratch', scratch]
        words += ['--data-root', str(args.data_root), *(['--folder', folder] if folder else [])]
        for key in ('batch_size', 'mu', 'iters', 'warm_up', 'workers', 'depth', 'width', 'threads'):
            words += [f'--{key.replace("_", "-")}', str(getattr(args, key))]
        environment = {**os.environ, 'OMP_NUM_THREADS': str(args.threads)}
        result = subprocess.run([*words, *options], capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f'{name} failed:\n{result.stderr[-3000:]}')
    return json.loads(result.stdout.splitlines()[-1])


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Compare the speed of FixMatch implementations.')
    add = parser.add_argument
    add('--kekmodel', help='a clone of github.com/kekmodel/FixMatch-pytorch')
    add('--torchssl', help='a clone of github.com/TorchSSL/TorchSSL')
    add('--batch-size', type=int, default=8, help='labelled images per batch')
    add('--mu', type=int, default=7, help='unlabelled images per labelled one')
    add('--iters', type=int, default=8, help='timed iterations')
    add('--warm-up', type=int, default=2, help='iterations before the timed ones')
    add('--rounds', type=int, default=3, help='turns per contestant')
    add('--workers', type=int, default=1, help='worker processes per dataloader')
    add('--depth', type=int, default=28)
    add('--width', type=int, default=2)
    threads = int(os.environ.get('OMP_NUM_THREADS') or os.cpu_count() or 1)
    add('--threads', type=int, default=threads)
    add('--data-root', type=Path, help="folder of CIFAR-10's files")
    add('--out', type=Path, help='also write the tables to this Markdown file')
    add('--contestant', choices=[*OURS, *PEERS], help=argparse.SUPPRESS)
    add('--views', action='store_true', help=argparse.SUPPRESS)
    add('--folder', type=Path, help=argparse.SUPPRESS)
    add('--scratch', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    least = dict(batch_size=1, mu=1, iters=1, warm_up=1, rounds=1, workers=0, width=1, threads=1)
    for key, low in least.items():
        if getattr(args, key) < low:
            option = f'--{key.replace("_", "-")}'
            parser.error(f'{option} must be an integer >= {low}, got {getattr(args, key)}')
    if args.depth < 10 or args.depth % 6 != 4:
        parser.error(f'--depth must be 4 more than a multiple of 6 and >= 10, got {args.depth}')
    if args.data_root and not (args.data_root / 'cifar-10-batches-py').is_dir():
        parser.error(f'--data-root must have cifar-10-batches-py, got {str(args.data_root)!r}')
    for name, folder in (('kekmodel', args.kekmodel), ('TorchSSL', args.torchssl)):
        if folder and not Path(folder, NEEDED[name]).is_file():
            parser.error(
                f'--{name.lower()} must be a clone of {name}, got {folder!r} without {NEEDED[name]}'
            )
    if not (args.kekmodel or args.torchssl or args.contestant):
        parser.error('set --kekmodel, --torchssl or both: the implementations to compare with')
    return args


def compare(args: argparse.Namespace) -> None:
    """Measure the contestants in turns, and show the tables."""
    import benchmark_update as bench
    import torch

    peers = [n for n, f in (('kekmodel', args.kekmodel), ('TorchSSL', args.torchssl)) if f]
    names = [*OURS, *peers]
    rates: dict[str, list[float]] = {name: [] for name in names}
    views: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.rounds):
        for name in names:
            views[name].append(rate(args, name, '--views'))
            rates[name].append(rate(args, name))
            print(f'round {turn + 1}, {name}: {rates[name][-1]:.3f} iterations per second')
    machine = (
        f'{bench.machine("cpu")}, {os.cpu_count()} cores, {args.threads} threads, '
        f'{"GPU" if torch.cuda.is_available() else "no GPU"}, torch {torch.__version__}; '
        f'WRN-{args.depth}-{args.width}, batches of {args.batch_size} + 2 x '
        f'{args.mu * args.batch_size}, {args.iters} iterations, {args.rounds} rounds'
    )
    header = ['', 'labels', 'strong view', 'median', 'least', 'most', 'of the faster peer']
    with contextlib.ExitStack() as stack:
        files = [sys.stdout, *([stack.enter_context(args.out.open('w'))] if args.out else [])]
        for file in files:
            print(machine, file=file)
        for title, values in (('iterations', rates), ('unlabelled images', views)):
            fastest = max(statistics.median(values[peer]) for peer in peers)
            rows = []
            for name in names:
                middle = statistics.median(values[name])
                numbers = [middle, min(values[name]), max(values[name])]
                cells = [f'{value:.3g}' for value in numbers] + [f'{middle / fastest:.2f}']
                rows.append([name, *{**OURS, **PEERS}[name], *cells])
            for file in files:
                bench.print_table(f'{title} per second:', header, rows, file)


def main() -> int:
    """Compare, or run as a contestant; return the exit status."""
    args = parse_args()
    if args.contestant:
        measure(args)
        return 0
    # Treat SIGTERM like Ctrl-C, so that the contestant's process ends too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory() as made:
            if args.data_root is None:
                args.data_root = Path(made)
                write_cifar10(args.data_root)
            args.data_root = args.data_root.resolve()
            compare(args)
    except KeyboardInterrupt:
        print('interrupted.', file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
