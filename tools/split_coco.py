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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from se_mm.checkpoints.write import whole_file
    from se_mm.datasets.coco_files import count_boxes, draw_coco_split, read_coco, split_coco
    from se_mm.engine.launch import run_tool
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw the labelled images of a COCO-format file.')
    add = parser.add_argument
    add('annotations', help='annotation file')
    add('--percent', type=float, nargs='+', default=[1, 2, 5, 10], help='labelled images, in %%')
    add('--folds', type=int, nargs='+', default=[1, 2, 3, 4, 5], help='independent draws, from 1')
    add('--seed', type=int, default=0, help='seed of all folds')
    add('--out', metavar='FOLDER', help='default: semi_anns beside the folder of the file')
    add('--overwrite', action='store_true', help='replace existing files')
    return parser.parse_args()


def main() -> None:
    """Draw and write every combination of fold and percent."""
    args = parse_args()
    source = Path(args.annotations)
    coco = read_coco(source)
    ids = [image['id'] for image in coco['images']]
    folder = Path(args.out) if args.out else source.resolve().parent.parent / 'semi_anns'
    table = Table(box=box.SIMPLE)
    for heading in ('fold', 'percent', 'labelled', 'boxes', 'learned', 'unlabelled'):
        table.add_column(heading, justify='right')
    table.add_column('classes without a box')
    files = {}
    for fold, percent in itertools.product(dict.fromkeys(args.folds), dict.fromkeys(args.percent)):
        drawn = draw_coco_split(ids, percent, fold, args.seed)
        labelled, unlabelled = split_coco(coco, drawn)
        boxes = count_boxes(labelled)
        if not boxes.usable:
            raise OptionError(
                f'fold {fold} at {percent:g} % must have a box that can be learned: {boxes}; use a '
                f'larger --percent or other --folds'
            )
        record = dict(annotations=source.name, num_images=len(ids), percent=percent, fold=fold)
        record.update(seed=args.seed, image_ids=drawn)
        for ending, content in (('', labelled), ('-unlabeled', unlabelled), ('-ids', record)):
            files[folder / f'{source.stem}.{fold}@{percent:g}{ending}.json'] = content
        there = {annotation['category_id'] for annotation in labelled['annotations']}
        absent = [c['name'] for c in coco['categories'] if c['id'] not in there]
        numbers = len(drawn), boxes.total, boxes.usable, len(ids) - len(drawn)
        names = ', '.join(absent[:5]) + (', ...' if len(absent) > 5 else '')
        table.add_row(str(fold), f'{percent:g}', *map(str, numbers), names or '-')
    # Look for existing files before writing the first.
    existing = [path for path in files if path.exists()]
    if existing and not args.overwrite:
        raise OptionError(
            f'{str(existing[0])!r} already exists ({len(existing)} files do); set another --out, '
            f'or --overwrite'
        )
    for path, content in files.items():
        with whole_file('out', path) as file:
            file.write_text(json.dumps(content))
    print(f'{source}: {count_boxes(coco)}')
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f'written to {folder}')


if __name__ == '__main__':
    run_tool(main, 'interrupted: the files written so far are complete.')
