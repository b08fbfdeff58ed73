# SPDX-License-Identifier: Apache-2.0
"""Convert a VOC-format folder to COCO's format: ``tools/voc_to_coco.py FOLDER --classes A B``.

For each list ``ImageSets/Main/NAME.txt`` it writes ``annotations/NAME.json``, whose file names are
those in ``JPEGImages``. VOC counts pixels from 1, and a box includes both its corners. Difficult
boxes become crowds, which mmdet does not learn and COCO's metric ignores.
"""

import argparse
import glob
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    from se_mm.checkpoints.write import whole_file
    from se_mm.datasets.coco_files import count_boxes
    from se_mm.engine.launch import run_tool
    from se_mm.smoothing.options import OptionError, check_choice
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Convert a VOC-format folder to COCO's format.")
    parser.add_argument('folder', type=Path, help='has Annotations, ImageSets/Main, JPEGImages')
    parser.add_argument('--classes', nargs='+', required=True, help='their names, in order')
    parser.add_argument('--lists', nargs='+', default=['train', 'val', 'test'], help='image lists')
    parser.add_argument('--out', type=Path, help='where to write; default: FOLDER/annotations')
    return parser.parse_args()


def numbers(place: str, node: ElementTree.Element, *keys: str) -> list[float]:
    """Read the numbers of elements below a node."""
    try:
        return [float(node.findtext(key, '')) for key in keys]
    except ValueError:
        found = [node.findtext(key) for key in keys]
        raise OptionError(f'{place}: {", ".join(keys)} must be numbers, got {found}') from None


def read_image(folder: Path, stem: str, classes: list[str]) -> tuple[dict, list[dict]]:
    """Read an image's entry and those of its boxes, without their ids."""
    path = folder / 'Annotations' / f'{stem}.xml'
    pictures = sorted((folder / 'JPEGImages').glob(f'{glob.escape(stem)}.*'))
    if not pictures:
        raise OptionError(f'{str(path)!r} must have an image in JPEGImages, got none')
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise OptionError(f'{str(path)!r} cannot be read: {error}') from error
    width, height = map(int, numbers(repr(str(path)), root, 'size/width', 'size/height'))
    corners = ('bndbox/xmin', 'bndbox/ymin', 'bndbox/xmax', 'bndbox/ymax')
    boxes = []
    for index, node in enumerate(root.iter('object')):
        place = f'{str(path)!r}: object[{index}]'
        label = classes.index(check_choice(f'{place}.name', node.findtext('name'), classes))
        x, y, right, bottom = box = numbers(place, node, *corners)
        if not (1 <= x <= right <= width and 1 <= y <= bottom <= height):
            raise OptionError(f'{place}: bndbox must lie in {width} x {height} pixels, got {box}')
        bbox, crowd = [x - 1, y - 1, right - x + 1, bottom - y + 1], node.findtext('difficult')
        area, iscrowd = bbox[2] * bbox[3], int(crowd == '1')
        boxes.append({'category_id': label, 'bbox': bbox, 'area': area, 'iscrowd': iscrowd})
    return {'file_name': pictures[0].name, 'width': width, 'height': height}, boxes


def convert(folder: Path, name: str, classes: list[str]) -> dict[str, Any]:
    """Read the images of a list, with their boxes."""
    path = folder / 'ImageSets' / 'Main' / f'{name}.txt'
    try:
        stems = dict.fromkeys(filter(None, map(str.strip, path.read_text().splitlines())))
    except OSError as error:
        raise OptionError(f'--lists={name}: {error.strerror}: {str(path)!r}') from error
    images, annotations = [], []
    for image_id, stem in enumerate(stems):
        image, boxes = read_image(folder, stem, classes)
        images.append({'id': image_id, **image})
        annotations += [{'image_id': image_id, **box} for box in boxes]
    return {
        'images': images,
        'annotations': [{'id': number, **box} for number, box in enumerate(annotations)],
        'categories': [{'id': number, 'name': label} for number, label in enumerate(classes)],
    }


def main() -> None:
    """Convert all lists before writing the first."""
    args = parse_args()
    out = args.out or args.folder / 'annotations'
    for path in (out / f'{name}.json' for name in args.lists):
        if path.exists():
            raise OptionError(f'{str(path)!r} already exists; set another --out')
    found = {name: convert(args.folder, name, args.classes) for name in args.lists}
    for name, coco in found.items():
        with whole_file('out', out / f'{name}.json') as file:
            file.write_text(json.dumps(coco))
        print(f'{out / name}.json: {len(coco["images"])} images, {count_boxes(coco)}')


if __name__ == '__main__':
    run_tool(main, 'interrupted: the files written so far are complete.')
