# SPDX-License-Identifier: Apache-2.0
"""Draw the labelled images of a COCO-format file: ``tools/split_coco.py FILE --percent 10``.

For each fold and percent it writes the two files that mmdet's semi-supervised configs read,
``NAME.FOLD@PERCENT.json`` and ``NAME.FOLD@PERCENT-unlabeled.json``, and the ids of the drawn images
in ``NAME.FOLD@PERCENT-ids.json``. Images are drawn without replacement, so 10 % are exactly 10 %.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from se_mm.checkpoints.write import whole_file
    from se_mm.datasets.coco_files import (
        BoxCounts,
        count_boxes,
        draw_coco_split,
        read_coco,
        split_coco,
    )
    from se_mm.engine.launch import run_tool
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def parse_args(args: Optional[list[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw the labelled images of a COCO-format file.')
    parser.add_argument('annotations', help='annotation file')
    parser.add_argument(
        '--percent', type=float, nargs='+', default=[1, 2, 5, 10], help='labelled images, in %%'
    )
    parser.add_argument(
        '--folds', type=int, nargs='+', default=[1, 2, 3, 4, 5], help='independent draws, from 1'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of all folds')
    parser.add_argument(
        '--out',
        metavar='FOLDER',
        help='where to write; default: semi_anns beside the folder of the file',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace existing files')
    return parser.parse_args(args)


def make_table(
    parts: dict[tuple[int, float], tuple[dict, dict]], counts: dict[tuple[int, float], BoxCounts]
) -> Table:
    """Make a table of what was written, one row per fold and percent."""
    table = Table(box=box.SIMPLE)
    headings = ('fold', 'percent', 'labelled', 'boxes', 'learned', 'unlabelled')
    for heading in headings:
        table.add_column(heading, justify='right')
    table.add_column('classes without a box')
    for (fold, percent), (part, rest) in parts.items():
        boxes = Counter(annotation['category_id'] for annotation in part['annotations'])
        absent = [c['name'] for c in part['categories'] if not boxes[c['id']]]
        numbers = (
            len(part['images']),
            len(part['annotations']),
            counts[fold, percent].usable,
            len(rest['images']),
        )
        table.add_row(
            str(fold),
            f'{percent:g}',
            *map(str, numbers),
            ', '.join(absent[:5]) + (', ...' if len(absent) > 5 else '') or '-',
        )
    return table


def main() -> None:
    """Draw and write every combination of fold and percent."""
    args = parse_args()
    source = Path(args.annotations)
    coco = read_coco(source)
    ids = [image['id'] for image in coco['images']]
    folder = Path(args.out) if args.out else source.resolve().parent.parent / 'semi_anns'
    # Draw all and look for existing files before writing the first.
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
            f'{str(there[0])!r} already exists ({len(there)} files do); set another --out, or '
            f'--overwrite'
        )
    print(f'{source}: {count_boxes(coco)}')
    parts = {draw: split_coco(coco, labelled) for draw, labelled in draws.items()}
    counts = {draw: count_boxes(part) for draw, (part, _) in parts.items()}
    for (fold, percent), boxes in counts.items():
        if not boxes.usable:
            raise OptionError(
                f'fold {fold} at {percent:g} % must have a box that can be learned: {boxes}; use a '
                f'larger --percent or other --folds'
            )
    for draw, (part, rest) in parts.items():
        record = {
            'annotations': source.name,
            'num_images': len(ids),
            'percent': draw[1],
            'fold': draw[0],
            'seed': args.seed,
            'image_ids': draws[draw],
        }
        for ending, content in (('', part), ('-unlabeled', rest), ('-ids', record)):
            with whole_file('out', folder / f'{stems[draw]}{ending}.json') as file:
                file.write_text(json.dumps(content))
    table = make_table(parts, counts)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f'written to {folder}')


if __name__ == '__main__':
    run_tool(main, 'interrupted: the files written so far are complete.')
