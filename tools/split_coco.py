# SPDX-License-Identifier: Apache-2.0
"""Draw which images of a COCO-format file are labelled: ``tools/split_coco.py FILE --percent 10``.

For each fold and percent it writes what mmdet's semi-supervised configs read, named as they name
it: ``NAME.FOLD@PERCENT.json`` and ``NAME.FOLD@PERCENT-unlabeled.json``, and which images were drawn
in ``NAME.FOLD@PERCENT-ids.json``. Draws are without replacement, so that 10 % are 10 %.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Works from a checkout, too.

try:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from se_mm.checkpoints.write import whole_file
    from se_mm.datasets.coco_split import draw_coco_split, read_coco, split_coco
    from se_mm.engine.launch import run_tool
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def parse_args(args: Optional[list[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Draw which images of a COCO-format file are labelled.'
    )
    parser.add_argument('annotations', help='the file')
    parser.add_argument(
        '--percent', type=float, nargs='+', default=[1, 2, 5, 10], help='how many are labelled'
    )
    parser.add_argument(
        '--folds', type=int, nargs='+', default=[1, 2, 3, 4, 5], help='which draws, from 1'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of all folds')
    parser.add_argument(
        '--out',
        metavar='FOLDER',
        help='where to write; by default semi_anns beside the folder of the file',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace files that are there')
    return parser.parse_args(args)


def main() -> None:
    """Draw and write every fold and percent."""
    args = parse_args()
    source = Path(args.annotations)
    coco = read_coco(source)
    ids = [image['id'] for image in coco['images']]
    folder = Path(args.out) if args.out else source.resolve().parent.parent / 'semi_anns'
    # All are drawn and looked for before the first is written.
    draws = {
        (fold, percent): draw_coco_split(ids, percent, fold, args.seed)
        for fold, percent in itertools.product(
            dict.fromkeys(args.folds), dict.fromkeys(args.percent)
        )
    }
    stems = {draw: f'{source.stem}.{draw[0]}@{draw[1]:g}' for draw in draws}
    there = [
        path
        for stem in stems.values()
        for ending in ('', '-unlabeled', '-ids')
        if (path := folder / f'{stem}{ending}.json').exists()
    ]
    if there and not args.overwrite:
        raise OptionError(
            f'{str(there[0])!r} is there already ({len(there)} files are): another --out, or '
            f'--overwrite.'
        )
    names = {category['id']: category['name'] for category in coco['categories']}
    table = Table(box=box.SIMPLE)
    for heading in ('fold', 'percent', 'labelled', 'boxes', 'unlabelled', 'classes without a box'):
        table.add_column(heading, justify='left' if heading.startswith('classes') else 'right')
    for (fold, percent), labelled in draws.items():
        part, rest = split_coco(coco, labelled)
        stem = stems[fold, percent]
        record = {
            'annotations': source.name,
            'num_images': len(ids),
            'percent': percent,
            'fold': fold,
            'seed': args.seed,
            'image_ids': labelled,
        }
        for ending, content in (('', part), ('-unlabeled', rest), ('-ids', record)):
            with whole_file('out', folder / f'{stem}{ending}.json') as file:
                file.write_text(json.dumps(content))
        boxes = Counter(annotation['category_id'] for annotation in part['annotations'])
        absent = [name for identity, name in names.items() if not boxes[identity]]
        table.add_row(
            str(fold),
            f'{percent:g}',
            str(len(labelled)),
            str(boxes.total()),
            str(len(ids) - len(labelled)),
            ', '.join(absent[:5]) + (', ...' if len(absent) > 5 else '') or '-',
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f'written to {folder}')


if __name__ == '__main__':
    run_tool(main, 'interrupted: what was written is whole.')
