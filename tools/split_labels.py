# SPDX-License-Identifier: Apache-2.0
"""Draw which images are labelled: ``python tools/split_labels.py CONFIG --num-labels 40``."""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Works from a checkout, too.

try:
    from mmengine.config import Config, ConfigDict
    from mmengine.registry import init_default_scope
    from rich.console import Console
    from rich.progress import track

    from se_mm.datasets.label_split import LabelSplit, draw_split
    from se_mm.datasets.semi_supervised_dataset import build_dataset, labels_of_dataset
    from se_mm.engine.launch import KeyValues, load_config, merge_options, run_tool
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)

KEY = 'train_dataloader.dataset.labelled'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=f'Draw which images of the config key {KEY} are labelled.'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--num-labels', type=int, help='how many images are labelled')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0], help='draw a split for each of these seeds'
    )
    parser.add_argument(
        '--as-given',
        action='store_true',
        help='draw each class as often as the data have it, instead of all equally often',
    )
    parser.add_argument('--out', metavar='FOLDER', help='write each split to a file in this folder')
    parser.add_argument('--show', metavar='FILE', help='show the split of a file, and draw none')
    parser.add_argument(
        '--check-images', action='store_true', help='first read every image, and list the bad ones'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='settings of the config to change: a.b=1 c="[1,2]"; no white space in a value',
    )
    # What a config is read and merged with by tools that train.
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0, no_pin_memory=False)
    args = parser.parse_args()
    if args.show and (args.num_labels is not None or args.out):
        parser.error('--show is of a split that exists: not with --num-labels or --out')
    if args.num_labels is None and not args.show and not args.check_images:
        parser.error('one of --num-labels, --show and --check-images is needed')
    if args.num_labels is None and args.out:
        parser.error('--out needs --num-labels')
    return args


def build_labelled(cfg: Config, path: str) -> Any:
    """Build the data set of which some images are labelled."""
    labelled: Any = cfg
    for key in KEY.split('.'):
        labelled = labelled.get(key) if isinstance(labelled, (Config, ConfigDict)) else None
    if labelled is None:
        raise OptionError(f'config={path!r} has no {KEY}, which this needs.')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    return build_dataset(KEY, labelled)


def find_unreadable(dataset: Any) -> tuple[int, list[str]]:
    """Read every image file: how many there are, and those that cannot be read."""
    import mmcv

    files, unreadable = 0, []
    indices = track(range(len(dataset)), 'reading images', console=Console(stderr=True))
    for index in indices:
        path = dataset.get_data_info(index).get('img_path')
        if path is None:
            continue
        files += 1
        try:
            readable = mmcv.imread(path) is not None
        except Exception:  # Whatever a decoder raises, and a file that is not there.
            readable = False
        if not readable:
            unreadable.append(path)
    return files, unreadable


def check_images(dataset: Any) -> None:
    """Report the images that cannot be read, and end with status 1 if there are any."""
    files, unreadable = find_unreadable(dataset)
    for path in unreadable:
        print(f'cannot be read: {path}')
    if unreadable:
        print(f'{len(unreadable)} of {files} image files cannot be read.')
        sys.exit(1)
    print(
        f'All {files} image files can be read.'
        if files
        else f'{type(dataset).__name__} has no image files: nothing to check.'
    )


def is_new(split: LabelSplit, path: Path) -> bool:
    """Whether a file is still to be written; a file that holds another split is an error."""
    if not path.exists():
        return True
    if LabelSplit.load(path) != split:
        raise OptionError(
            f'{str(path)!r} holds another split and is not overwritten: another --out, or remove '
            'it.'
        )
    return False


def main() -> None:
    """Draw, or show."""
    args = parse_args()
    cfg = load_config(args, ['train_dataloader'])
    merge_options(cfg, args)
    dataset = build_labelled(cfg, args.config)
    name, classes = type(dataset).__name__, dataset.metainfo.get('classes')
    if not classes:
        raise OptionError(f'{KEY}={name!r} has no classes: give its metainfo.')
    labels = labels_of_dataset(KEY, dataset)
    if args.check_images:
        check_images(dataset)
    if args.show:
        split = LabelSplit.load(args.show)
        split.check(args.show, name, classes, labels)
        print(split.table(labels), end='')
    if args.num_labels is None:
        return
    splits = [
        draw_split(name, classes, labels, args.num_labels, seed, balanced=not args.as_given)
        for seed in dict.fromkeys(args.seeds)
    ]
    paths = [
        Path(args.out or '', f'{name}_{args.num_labels}_seed{split.seed}.json') for split in splits
    ]
    # All are compared before the first is written.
    new = [is_new(split, path) for split, path in zip(splits, paths)] if args.out else []
    print(splits[0].table(labels), end='')
    for index, (split, path) in enumerate(zip(splits, paths)):
        first = ', '.join(str(number) for number in split.indices[:5])
        line = f'seed {split.seed}: images {first}{", ..." if len(split.indices) > 5 else ""}'
        if args.out:
            if new[index]:
                split.save(path)
            line += f': {path} {"written" if new[index] else "is there already"}'
        print(line)


if __name__ == '__main__':
    run_tool(main, 'interrupted.')
