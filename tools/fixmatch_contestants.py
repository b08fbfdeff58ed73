# SPDX-License-Identifier: Apache-2.0
"""One contestant of ``benchmark_fixmatch.py``, in its own process: print its measured rate.

Each trains a WRN on CIFAR-10's files with its own loaders, views, losses, optimizer, average and
training loop.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Lets it run from a checkout.

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
SIZES = ('batch_size', 'mu', 'iters', 'warm_up', 'workers', 'depth', 'width', 'threads')
"""Options of both programs, which are numbers."""
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


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Measure one contestant of benchmark_fixmatch.py.')
    parser.add_argument('contestant', choices=[*OURS, *PEERS])
    parser.add_argument('--views', action='store_true', help='time the views alone')
    for name in ('folder', 'scratch', 'data_root'):
        parser.add_argument(f'--{name.replace("_", "-")}', type=Path)
    for name in SIZES:
        parser.add_argument(f'--{name.replace("_", "-")}', type=int, required=True)
    return parser.parse_args()


def main() -> None:
    """Measure the contestant, and print iterations, or images, per second."""
    import torch

    args = parse_args()
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


if __name__ == '__main__':
    main()
