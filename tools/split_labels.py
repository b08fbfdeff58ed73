# SPDX-License-Identifier: Apache-2.0
"""Draw the labelled images: ``python tools/split_labels.py CONFIG --num-labels 40``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    import cv2
    import numpy as np
    from mmengine.config import Config
    from mmengine.fileio import get
    from mmengine.registry import init_default_scope
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from se_mm.datasets.class_checks import classes_of, labels_of_dataset
    from se_mm.datasets.image_files import names_of, paths_of, read_all
    from se_mm.datasets.label_split import LabelSplit, draw_split
    from se_mm.datasets.semi_supervised_dataset import build_dataset
    from se_mm.engine.cfg_options import key_value
    from se_mm.engine.launch import load_config, merge_options, run_tool
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)

KEY = 'train_dataloader.dataset.labelled'
IMAGE_KEYS = (
    KEY,
    'train_dataloader.dataset.unlabelled',
    'train_dataloader.dataset',
    'val_dataloader.dataset',
    'val_cfg.bank.dataset',
    'test_dataloader.dataset',
    'test_cfg.bank.dataset',
)
"""Where a config may have data sets."""
DEEP = ('.pgm', '.png', '.ppm', '.tif', '.tiff')
"""Formats that may have more than 8 bits per channel."""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=f'Draw the labelled images of {KEY}.')
    add = parser.add_argument
    add('config', help='config file')
    add('--num-labels', type=int, help='number of labelled images')
    add('--seeds', type=int, nargs='+', default=[0], help='draw one split for each seed')
    add('--as-given', action='store_true', help='keep the proportions of classes in the data')
    add('--out', metavar='FOLDER', help='write each split to a file in this folder')
    add('--show', metavar='FILE', help='show the split in a file instead of drawing')
    add('--check-images', action='store_true', help='list unreadable images of all datasets')
    add('--cfg-options', nargs='+', type=key_value, metavar='KEY=VALUE', help='config settings')
    # Needed by load_config and merge_options, which are shared with the training tools.
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0, no_pin_memory=False)
    args = parser.parse_args()
    if args.show and (args.num_labels is not None or args.out):
        parser.error('--show must not be combined with --num-labels or --out')
    if args.num_labels is None and not args.show and (args.out or not args.check_images):
        parser.error('set one of --num-labels, --show and --check-images; --out needs --num-labels')
    return args


def config_at(cfg: Config, key: str) -> dict:
    """Return the config of the data set at a key, empty if there is none."""
    part = cfg
    for name in key.split('.'):
        part = part.get(name) or {}
    return part


def is_deep(path: str) -> bool:
    """Return whether an image has more than 8 bits per channel, of which only 8 are read."""
    if not path.lower().endswith(DEEP):
        return False
    image = cv2.imdecode(np.frombuffer(get(path), np.uint8), cv2.IMREAD_UNCHANGED)
    return image is not None and image.dtype != np.uint8


def check_images(cfg: Config) -> None:
    """Report the unreadable images of all datasets; exit with status 1 if there are any."""
    bad = 0
    seen = []
    for key in IMAGE_KEYS:
        config = config_at(cfg, key)
        config = {name: value for name, value in config.items() if name != 'pipeline'}
        if not config or 'labelled' in config or config in seen:
            continue
        seen.append(config)
        paths = [path for path in paths_of(build_dataset(key, config)) if path is not None]
        read = track(read_all(paths), f'reading {key}', len(paths), console=Console(stderr=True))
        faults = {path: fault for path, fault in read if fault}
        for path, fault in faults.items():
            print(f'cannot be read: {path}: {fault}')
        print(f'{key}: {len(paths) - len(faults)} of {len(paths)} image files can be read.')
        if deep := [path for path in paths if path not in faults and is_deep(path)]:
            print(
                f'{key}: {len(deep)} images have more than 8 bits per channel, such as {deep[0]}; '
                f'only the upper 8 of 16 bits are read.'
            )
        bad += len(faults)
    if bad:
        sys.exit(1)


def print_table(split: LabelSplit, labels: np.ndarray) -> None:
    """Print each class, its number of images among ``labels`` (n,), and of labelled ones."""
    drawn = labels[list(split.indices)]
    table = Table(title=f'{split.dataset}: {split.num_labels} labels, seed {split.seed}')
    table.add_column('class')
    table.add_column('images', justify='right')
    table.add_column('labelled', justify='right')
    for label, name in enumerate(split.classes):
        table.add_row(name, str((labels == label).sum()), str((drawn == label).sum()))
    table.add_row('(no label)', str((labels < 0).sum()), '0', end_section=True)
    table.add_row('all', str(len(labels)), str(len(drawn)))
    Console(width=100, markup=False, emoji=False).print(table)


def main() -> None:
    """Draw splits, or show one."""
    args = parse_args()
    cfg = load_config(args, ['train_dataloader'])
    merge_options(cfg, args)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    if args.check_images:
        check_images(cfg)
        if args.num_labels is None and not args.show:
            return
    labelled = config_at(cfg, KEY)
    if not labelled:
        raise OptionError(f'config {args.config!r} must set {KEY}')
    dataset = build_dataset(KEY, labelled)
    name, classes = type(dataset).__name__, classes_of(KEY, dataset)
    labels, names = labels_of_dataset(KEY, dataset), names_of(dataset)
    if args.show:
        split = LabelSplit.load(args.show)
        split.check(args.show, name, classes, labels, names)
        print_table(split, labels)
        return
    folder, splits = Path(args.out or ''), {}
    for seed in args.seeds:
        path = folder / f'{name}_{args.num_labels}_seed{seed}.json'
        balanced = not args.as_given
        split = draw_split(name, classes, labels, args.num_labels, seed, balanced, names)
        # Compare all with existing files before writing the first.
        if args.out and path.exists() and LabelSplit.load(path) != split:
            raise OptionError(
                f'{str(path)!r} holds another split and is not overwritten; set another --out, or '
                f'remove it'
            )
        splits[path] = split
    print_table(split, labels)
    for path, split in splits.items():
        shown = ', '.join(str(index) for index in split.indices[:5])
        line = f'seed {split.seed}: images {shown}{", ..." if len(split.indices) > 5 else ""}'
        if args.out and path.exists():
            line += f': {path} already exists'
        elif args.out:
            split.save(path)
            line += f': {path} written'
        print(line)


if __name__ == '__main__':
    run_tool(main, 'interrupted.')
