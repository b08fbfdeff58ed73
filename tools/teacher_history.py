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
    from se_mm.checkpoints.write import whole_file
    from se_mm.engine.hooks.record import read_record
    from se_mm.engine.launch import run_tool
    from se_mm.history.picture import draw_history, stage_table, summary
    from se_mm.history.provenance import provenance
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


def main() -> None:
    """Print the summary, and write the plot and the page."""
    args = parse_args()
    name, out = args.checkpoint.name, args.out or args.checkpoint.parent
    checkpoint = read_checkpoint(args.checkpoint)
    record = read_record(checkpoint) if isinstance(checkpoint, dict) else None
    if record is None or not record['step']:
        raise OptionError(
            f'checkpoint must have a teacher that a hook of se_mm has updated, got {name!r}'
        )
    updates = record['step']
    segments = read_history(record['history'], updates)
    found = provenance(segments, updates)
    rows = summary(found)
    for what, measured, expected in rows:
        print(f'{what:<37}  {measured}' + (f' (expected {expected})' if expected else ''))
    title = f'{name}: {record["hook"]}, {segments[-1].rules[0].rule}, after {updates:,} updates'
    if len(segments) > 1:
        title += f', of which {updates - segments[-1].begin:,} with these settings'
    picture = png(draw_history(found, title))
    alt = 'A map of the age of every unit, and the measured and expected distributions of ages'
    body = [table(['', 'this teacher', 'expected'], rows), embedded(picture, alt)]
    body += ['<h2>Parts</h2>', table(*stage_table(found))]
    text = page(f'What the teacher of {name} is made of', '\n'.join(body))
    for kind, data in (('png', picture), ('html', text.encode())):
        with whole_file('--out', out / f'teacher_history.{kind}') as file:
            file.write_bytes(data)
    print(f'{out}/teacher_history.png and .html')


if __name__ == '__main__':
    run_tool(main, 'interrupted: nothing was written.')
