# SPDX-License-Identifier: Apache-2.0
"""Benchmark FixMatch in iterations per second against two public PyTorch implementations.

Their code is not part of this project: pass the folders of clones of
github.com/kekmodel/FixMatch-pytorch and github.com/TorchSSL/TorchSSL.

    python tools/benchmark_fixmatch.py --kekmodel FOLDER --torchssl FOLDER

Each contestant of ``fixmatch_contestants.py`` runs in its own process; they take turns. Without
--data-root the images are random pixels, which take the same time. A second table has the
throughput of the views of unlabelled images alone, from array to tensors, since this limits
training on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]  # Lets it run from a checkout.

import benchmarking as bench  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from fixmatch_contestants import OURS, PEERS, SIZES  # noqa: E402

CONTESTANTS = str(ROOT / 'tools/fixmatch_contestants.py')
NEEDED = {'kekmodel': 'dataset/cifar.py', 'TorchSSL': 'models/fixmatch/fixmatch.py'}


def write_cifar10(folder: Path, images_per_file: int = 10000) -> None:
    """Write CIFAR-10's six files with random pixels.

    All images are written, since their number affects the time: kekmodel's loader restarts after
    each pass over them, and TorchSSL counts all their labels in every iteration.
    """
    rng = np.random.default_rng(0)
    folder = folder / 'cifar-10-batches-py'
    folder.mkdir()
    for name in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'):
        images = rng.integers(0, 256, (images_per_file, 3072), np.uint8)
        content = {'data': images, 'labels': [i % 10 for i in range(images_per_file)]}
        (folder / name).write_bytes(pickle.dumps(content))
    classes = [str(i) for i in range(10)]
    (folder / 'batches.meta').write_bytes(pickle.dumps({'label_names': classes}))


def rate(args: argparse.Namespace, name: str, *options: str) -> float:
    """Measure a contestant in its own process.

    Raises:
        RuntimeError: If the process fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = {'kekmodel': args.kekmodel, 'TorchSSL': args.torchssl}.get(name)
        words = [sys.executable, CONTESTANTS, name, '--scratch', scratch]
        words += ['--data-root', str(args.data_root), *(['--folder', folder] if folder else [])]
        for key in SIZES:
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
    if not (args.kekmodel or args.torchssl):
        parser.error('set --kekmodel, --torchssl or both: the implementations to compare with')
    return args


def compare(args: argparse.Namespace) -> None:
    """Measure the contestants in turns, and show the tables."""
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
    """Run the comparison, and return the exit status."""
    args = parse_args()
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
