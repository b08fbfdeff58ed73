# SPDX-License-Identifier: Apache-2.0
"""Draw the labelled images: ``python tools/split_labels.py CONFIG --num-labels 40``."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    from mmengine.config import Config, ConfigDict
    from mmengine.registry import init_default_scope
    from rich.console import Console
    from rich.progress import track

    from se_mm.datasets.class_checks import classes_of, labels_of_dataset
    from se_mm.datasets.image_files import is_deep, names_of, paths_of, read_all
    from se_mm.datasets.label_split import LabelSplit, draw_split
    from se_mm.datasets.semi_supervised_dataset import build_dataset
    from se_mm.engine.launch import KeyValues, load_config, merge_options, run_tool
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)

KEY = 'train_dataloader.dataset.labelled'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=f'Draw the labelled images of the dataset at the config key {KEY}.'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--num-labels', type=int, help='number of labelled images')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0], help='draw one split for each seed'
    )
    parser.add_argument(
        '--as-given',
        action='store_true',
        help='draw classes in the proportions of the data, instead of equally often',
    )
    parser.add_argument('--out', metavar='FOLDER', help='write each split to a file in this folder')
    parser.add_argument(
        '--show', metavar='FILE', help='show the split in a file instead of drawing'
    )
    parser.add_argument(
        '--check-images',
        action='store_true',
        help='read every image of all datasets of the config first, and list unreadable ones',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='override config settings: a.b=1 c="[1,2]"; values must not contain spaces',
    )
    # Needed by load_config and merge_options, which are shared with the training tools.
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0, no_pin_memory=False)
    args = parser.parse_args()
    if args.show and (args.num_labels is not None or args.out):
        parser.error('--show must not be combined with --num-labels or --out')
    if args.num_labels is None and not args.show and not args.check_images:
        parser.error('set one of --num-labels, --show and --check-images')
    if args.num_labels is None and args.out:
        parser.error('--out needs --num-labels')
    return args


def build_labelled(cfg: Config, path: str) -> Any:
    """Build the dataset to draw labelled images from."""
    labelled: Any = cfg
    for key in KEY.split('.'):
        labelled = labelled.get(key) if isinstance(labelled, (Config, ConfigDict)) else None
    if labelled is None:
        raise OptionError(f'config {path!r} must set {KEY}')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    return build_dataset(KEY, labelled)


def image_sets(cfg: Config) -> dict[str, Any]:
    """Build the datasets of a config, each once, by config key."""
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    train = cfg.train_dataloader.get('dataset') or {}
    parts = {
        f'train_dataloader.dataset.{key}': train[key]
        for key in ('labelled', 'unlabelled')
        if isinstance(train.get(key), Mapping)
    }
    found = parts or {'train_dataloader.dataset': train}
    for stage in ('val', 'test'):
        loader = cfg.get(f'{stage}_dataloader') or {}
        found[f'{stage}_dataloader.dataset'] = loader.get('dataset')
        bank = (cfg.get(f'{stage}_cfg') or {}).get('bank') or {}
        found[f'{stage}_cfg.bank.dataset'] = bank.get('dataset')
    sets: dict[str, Any] = {}
    seen: list[dict] = []
    for key, config in found.items():
        if not isinstance(config, Mapping):
            continue
        config = {name: value for name, value in config.items() if name != 'pipeline'}
        if config not in seen:
            seen.append(config)
            sets[key] = build_dataset(key, config)
    return sets


def check_images(cfg: Config) -> None:
    """Report the unreadable images of all datasets; exit with status 1 if there are any."""
    bad = 0
    for key, dataset in image_sets(cfg).items():
        paths = [path for path in paths_of(dataset) if path is not None]
        if not paths:
            print(f'{key}: {type(dataset).__name__} has no image files: nothing to check.')
            continue
        console = Console(stderr=True)
        read = track(read_all(paths), f'reading {key}', len(paths), console=console)
        faults = {path: fault for path, fault in read if fault}
        for path, fault in faults.items():
            print(f'cannot be read: {path}: {fault}')
        print(
            f'{key}: {len(faults)} of {len(paths)} image files cannot be read.'
            if faults
            else f'{key}: all {len(paths)} image files can be read.'
        )
        if deep := [path for path in paths if path not in faults and is_deep(path)]:
            print(
                f'{key}: {len(deep)} images have more than 8 bits per channel, such as {deep[0]}; '
                f'only the upper 8 of 16 bits are read.'
            )
        bad += len(faults)
    if bad:
        sys.exit(1)


def is_new(split: LabelSplit, path: Path) -> bool:
    """Return whether the file must be written.

    Raises:
        OptionError: If it exists and holds another split.
    """
    if not path.exists():
        return True
    if LabelSplit.load(path) != split:
        raise OptionError(
            f'{str(path)!r} holds another split and is not overwritten; set another --out, or '
            f'remove it'
        )
    return False


def main() -> None:
    """Draw splits, or show one."""
    args = parse_args()
    cfg = load_config(args, ['train_dataloader'])
    merge_options(cfg, args)
    if args.check_images:
        check_images(cfg)
        if args.num_labels is None and not args.show:
            return
    dataset = build_labelled(cfg, args.config)
    name, classes = type(dataset).__name__, classes_of(KEY, dataset)
    labels, names = labels_of_dataset(KEY, dataset), names_of(dataset)
    if args.show:
        split = LabelSplit.load(args.show)
        split.check(args.show, name, classes, labels, names)
        print(split.table(labels), end='')
    if args.num_labels is None:
        return
    splits = [
        draw_split(name, classes, labels, args.num_labels, seed, not args.as_given, names)
        for seed in dict.fromkeys(args.seeds)
    ]
    paths = [
        Path(args.out or '', f'{name}_{args.num_labels}_seed{split.seed}.json') for split in splits
    ]
    # Compare all with existing files before writing the first.
    new = [is_new(split, path) for split, path in zip(splits, paths)] if args.out else []
    print(splits[0].table(labels), end='')
    for index, (split, path) in enumerate(zip(splits, paths)):
        first = ', '.join(str(number) for number in split.indices[:5])
        line = f'seed {split.seed}: images {first}{", ..." if len(split.indices) > 5 else ""}'
        if args.out:
            if new[index]:
                split.save(path)
            line += f': {path} {"written" if new[index] else "already exists"}'
        print(line)


if __name__ == '__main__':
    run_tool(main, 'interrupted.')
