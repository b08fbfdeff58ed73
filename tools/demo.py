# SPDX-License-Identifier: Apache-2.0
"""Train BYOL under TMA, SE and STS on glyphs on photographs, and compare them.

``make demo`` runs it. Each run trains an ordinary config with ``tools/train.py``; completed runs
are not repeated. The result is a table and a bar chart in the work dir.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Lets it run from a checkout.

from se_mm.home import TOOLS, find_config  # noqa: E402
from se_mm.smoothing.options import OptionError  # noqa: E402
from se_mm.studies.runs import Run, RunFailure, run_all  # noqa: E402

CONFIG = 'byol_{}_conv5_1xb128_glyphs.py'
SMOOTHINGS = {'TMA': 'tma', 'SE': 'se', 'STS': 'sts'}
ITERS = 600
METRICS = {
    'teacher_knn/top1': 'teacher kNN',
    'student_knn/top1': 'student kNN',
    'teacher_linear/top1': 'teacher linear',
    'student_linear/top1': 'student linear',
}
# Okabe and Ito's colours, which the colour-blind can tell apart; light for kNN, dark for linear.
COLOURS = ('#56B4E9', '#E69F00', '#0072B2', '#D55E00')
EXPLANATION = (
    'Top-1 accuracy in % on 2,000 test images of 20 letters. The three teachers have the same '
    'horizon (momentum 0.01; keep_prob 0.99; keep_prob 0.7 with matched horizon), so this compares '
    'the mechanism and not the speed. A single run each, with seed 0, does not decide which is '
    'better.'
)


def runs_of(work_dir: Path, iters: int, options: list[str]) -> list[Run]:
    """Return the runs of the demo: an untrained network, and one training per smoothing."""

    def command(short: str, folder: Path, *changes: str) -> list[str]:
        tool, config = str(TOOLS / 'train.py'), str(find_config(CONFIG.format(short)))
        words = [sys.executable, tool, config, '--work-dir', str(folder)]
        return [*words, '--cfg-options', *changes, *options]

    # A learning rate of 0 keeps the initial weights, while batch norm collects the statistics that
    # an evaluation needs.
    folder, still = work_dir / 'untrained', min(50, iters)
    length = (f'train_cfg.max_iters={still}', f'train_cfg.val_interval={still}')
    rate = ('optim_wrapper.optimizer.lr=0', 'param_scheduler=[]')
    runs = [Run('untrained', folder, command('tma', folder, *length, *rate), still)]
    warm_up = max(1, iters // 20)
    length = (
        f'train_cfg.max_iters={iters}',
        f'train_cfg.val_interval={iters}',
        f'param_scheduler.0.end={warm_up}',
        f'param_scheduler.1.begin={warm_up}',
        f'param_scheduler.1.end={max(iters, warm_up + 1)}',
    )
    for name, short in SMOOTHINGS.items():
        folder = work_dir / short
        runs.append(Run(name, folder, command(short, folder, *length), iters))
    return runs


def show_table(results: dict[str, dict[str, float]], console: Console) -> None:
    """Print the comparison."""
    table = Table(title='BYOL on glyphs on photographs')
    table.add_column('smoothing')
    for label in METRICS.values():
        table.add_column(label, justify='right')
    for name, metrics in results.items():
        table.add_row(name, *(f'{metrics[metric]:.1f}' for metric in METRICS))
    console.print(table)
    console.print(EXPLANATION)


def write_markdown(results: dict[str, dict[str, float]], path: Path) -> None:
    """Write the comparison as a table in Markdown."""
    rows = [['smoothing', *METRICS.values()], ['---', *('---:' for _ in METRICS)]]
    for name, metrics in results.items():
        rows.append([name, *(f'{metrics[metric]:.1f}' for metric in METRICS)])
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    path.write_text('\n'.join([*lines, '', EXPLANATION, '']))


def draw(results: dict[str, dict[str, float]], path: Path) -> None:
    """Draw the comparison as bars."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout='constrained')
    width = 0.8 / len(METRICS)
    for index, (metric, label) in enumerate(METRICS.items()):
        places = [place + (index - (len(METRICS) - 1) / 2) * width for place in range(len(results))]
        heights = [metrics[metric] for metrics in results.values()]
        bars = axes.bar(places, heights, width * 0.92, label=label, color=COLOURS[index])
        axes.bar_label(bars, fmt='%.0f', fontsize=8)
    axes.axhline(5, color='0.4', linestyle=':', linewidth=1)
    axes.text(len(results) - 0.57, 5, 'chance', va='bottom', fontsize=8, color='0.3')
    axes.set_xlim(-0.5, len(results) - 0.3)
    axes.set_xticks(range(len(results)), results)
    axes.set_ylabel('top-1 accuracy (%)')
    axes.set_ylim(0, 100)
    axes.set_title('BYOL on glyphs on photographs: teachers of the same horizon, seed 0')
    axes.legend(ncols=2, frameon=False, loc='upper left')
    axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Compare TMA, SE and STS in a few minutes.')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--iters', type=int, default=ITERS, help='training iterations of each run')
    parser.add_argument('--fresh', action='store_true', help='repeat completed runs')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='changes to every config'
    )
    return parser.parse_args()


def main() -> int:
    """Run the demo, and return the exit status."""
    args = parse_args()
    console = Console()
    work_dir = args.work_dir.resolve()
    if args.iters < 1:
        console.print(f'error: --iters must be an integer >= 1, got {args.iters}')
        return 2
    runs = runs_of(work_dir, args.iters, args.cfg_options)
    if args.fresh:
        for run in runs:
            run.set_aside()
    # Treat SIGTERM like Ctrl-C, so that no training process is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    try:
        failures = run_all(runs, console, wanted=list(METRICS))
    except OptionError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.print('interrupted: run the same command again to complete the missing runs.')
        return 130
    except RunFailure as error:
        failures = [error]
    for failure in failures:
        console.print(str(failure), markup=False, highlight=False)
    if failures:
        return 1
    results = {run.name: {metric: run.metrics[metric] for metric in METRICS} for run in runs}
    (work_dir / 'results.json').write_text(json.dumps(results, indent=2))
    write_markdown(results, work_dir / 'results.md')
    draw(results, work_dir / 'results.png')
    show_table(results, console)
    console.print(
        f'{time.monotonic() - begin:.0f} s; written to {work_dir}/results.{{json,md,png}}'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
