# SPDX-License-Identifier: Apache-2.0
"""Plot what the teacher in a checkpoint is made of: the age of each of its units.

``python tools/teacher_history.py work_dirs/byol_sts_conv5_1xb128_glyphs/iter_600.pth``
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    import se_mm  # noqa: F401 -- lets PyTorch read MMEngine's checkpoints
    from se_mm.checkpoints.read import read_checkpoint
    from se_mm.checkpoints.teacher_and_student import teacher_and_student
    from se_mm.checkpoints.write import whole_file
    from se_mm.engine.hooks.record import read_record
    from se_mm.engine.launch import run_tool
    from se_mm.history.picture import distances, draw_distances, draw_history, stage_table, summary
    from se_mm.history.provenance import law, provenance
    from se_mm.history.segments import read_history
    from se_mm.page import embedded, page, png, table
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Plot what a teacher is made of.')
    parser.add_argument('checkpoint', type=Path, help='a training checkpoint')
    parser.add_argument('--out', type=Path, help="where to write; default: the checkpoint's folder")
    return parser.parse_args()


def history_of(record: dict, name: str) -> tuple[bytes, str]:
    """Return the plot of a teacher that se_mm updated, and the body of its page."""
    updates, segments = record['step'], read_history(record['history'], record['step'])
    if updates == 0:
        raise OptionError(f'checkpoint must be from after the first update, got {name!r}')
    found, expected = provenance(segments, updates), law(segments, updates)
    rows = summary(found, expected)
    for what, measured, law_says in rows:
        print(f'{what:<37}  {measured}' + (f' (expected {law_says})' if law_says else ''))
    title = f'{name}: {record["hook"]}, {segments[-1].rules[0].rule}, after {updates:,} updates'
    if len(segments) > 1:
        title += f', of which {updates - segments[-1].begin:,} with these settings'
    picture = png(draw_history(found, expected, title))
    alt = 'A map of the age of every unit, and the measured and expected distributions of ages'
    body = [table(['', 'this teacher', 'expected'], rows), embedded(picture, alt)]
    return picture, '\n'.join([*body, '<h2>Parts</h2>', table(*stage_table(found))])


def distance_of(checkpoint: dict, name: str) -> tuple[bytes, str]:
    """Return the plot of a teacher whose updates are unknown, and the body of its page."""
    both = teacher_and_student(checkpoint)
    if both.kind is None:
        raise OptionError(f'checkpoint must hold a teacher, got {name!r} with a single model')
    note = (
        'the checkpoint has no record of se_mm: another hook updated its teacher, so the origin of '
        'its units is unknown; the plot shows the distance from its student.'
    )
    print(note)
    found = distances(both.teacher, both.student)
    picture = png(draw_distances(found, f'{name}: teacher ({both.kind}) and student'))
    rows = [[tensor, f'{distance:.4g}'] for tensor, distance in found.items()]
    body = f'<p>{note.capitalize()}</p>' + embedded(picture, 'Distance of each tensor')
    return picture, f'{body}\n{table(["tensor", "distance"], rows)}'


def main() -> None:
    """Write the plot and the page."""
    args = parse_args()
    name, out = args.checkpoint.name, args.out or args.checkpoint.parent
    checkpoint = read_checkpoint(args.checkpoint)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise OptionError(
            f"checkpoint must be a training checkpoint, got {name!r} without 'state_dict'"
        )
    record = read_record(checkpoint)
    picture, body = distance_of(checkpoint, name) if record is None else history_of(record, name)
    text = page(f'What the teacher of {name} is made of', body)
    for kind, data in (('png', picture), ('html', text.encode())):
        with whole_file('--out', out / f'teacher_history.{kind}') as file:
            file.write_bytes(data)
    print(f'{out}/teacher_history.png and .html')


if __name__ == '__main__':
    run_tool(main, 'interrupted: nothing was written.')
