# SPDX-License-Identifier: Apache-2.0
"""Train configs with several seeds each, and compare them pair by pair.

``python tools/compare.py A.py B.py --seeds 0 1 2 3 4``. A seed is that of the run and, where a
config draws which images are labelled, that of the split too; of detection sets, each seed has a
fold. A run that is complete is not repeated. It ends with a table in the terminal and in the work
dir.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Works from a checkout, too.

try:
    from mmengine.config import Config

    from se_mm.engine.launch import require_file
    from se_mm.evaluation.runs import Run, RunFailure, run_all
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)

HEADER = ['config', 'seeds', 'mean', 'deviation', 'difference', '95 % interval']


def seed_options(cfg: Config, seed: int) -> list[str]:
    """The settings that make a run one of a seed."""
    options = [f'randomness.seed={seed}']
    dataset = cfg.train_dataloader.dataset
    split = dataset.get('split')
    if isinstance(split, dict) and 'num_labels' in split:
        options.append(f'train_dataloader.dataset.split.seed={seed}')
    # Of detection sets, each seed has a fold.
    options += [
        f'train_dataloader.dataset.datasets.{index}.fold={seed + 1}'
        for index, part in enumerate(dataset.get('datasets', []))
        if 'fold' in part
    ]
    return options


def runs_of(args: argparse.Namespace) -> dict[str, list[Run]]:
    """The runs of each config, one for each seed.

    Raises:
        OptionError: If there is no such config, or two have one name.
    """
    runs: dict[str, list[Run]] = {}
    for config in args.configs:
        path = Path(require_file('config', config)).resolve()
        if path.stem in runs:
            raise OptionError(f'{config!r} has the name of another config: rename one of them.')
        cfg = Config.fromfile(path)
        runs[path.stem] = []
        for seed in args.seeds:
            options = seed_options(cfg, seed)
            folder = args.work_dir.resolve() / path.stem / f'seed{seed}'
            command = [sys.executable, str(ROOT / 'tools/train.py'), str(path)]
            command += ['--work-dir', str(folder), '--cfg-options', *options, *args.cfg_options]
            iters = cfg.train_cfg.get('max_iters', 1)
            runs[path.stem].append(
                Run(f'{path.stem} {seed}', folder, command, iters, [args.metric])
            )
    return runs


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t; infinite for a single value.

    Args:
        values: Shape (n,).
    """
    from scipy import stats

    if len(values) < 2:
        return -float('inf'), float('inf')
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


def rows_of(values: dict[str, list[float]]) -> list[list[str]]:
    """The cells of the table: each config, and its differences from the first, seed by seed."""
    reference = np.array(next(iter(values.values())))
    # Some metrics are in %, others in shares of 1.
    digits = 4 if max(map(max, values.values())) <= 1 else 2
    rows = []
    for name, metrics in values.items():
        metrics = np.array(metrics)
        deviation = f'{metrics.std(ddof=1):.{digits}f}' if len(metrics) > 1 else ''
        row = [name, str(len(metrics)), f'{metrics.mean():.{digits}f}', deviation, '', '']
        if rows:
            low, high = interval(metrics - reference)
            mean = (metrics - reference).mean()
            row[4:] = [f'{mean:+.{digits}f}', f'{low:+.{digits}f} to {high:+.{digits}f}']
        rows.append(row)
    return rows


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Compare configs over seeds.')
    parser.add_argument('configs', nargs='+', help='configs; the others are compared to the first')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--metric', default='teacher/accuracy/top1', help='a metric of the end')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare'))
    parser.add_argument('--fresh', action='store_true', help='repeat runs that are complete')
    parser.add_argument('--jobs', type=int, help='runs at a time; as many as there are cores')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='changes to every config'
    )
    return parser.parse_args()


def main() -> int:
    """Compare, and return the exit status."""
    args = parse_args()
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    try:
        runs = runs_of(args)
        every = [run for of_config in runs.values() for run in of_config]
        for run in every if args.fresh else []:
            run.forget()
        run_all(every, console, args.jobs)
    except OptionError as error:
        console.print(f'error: {error}', markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        console.print('interrupted: the same command goes on with the runs that are not complete.')
        return 130
    except RunFailure as error:
        console.print(str(error), markup=False, highlight=False)
        return 1
    values = {
        name: [run.metrics[args.metric] for run in of_config] for name, of_config in runs.items()
    }
    rows = rows_of(values)
    table = Table(title=f'{args.metric}, seeds {", ".join(map(str, args.seeds))}')
    for column in HEADER:
        table.add_column(column, justify='left' if column == 'config' else 'right', overflow='fold')
    for row in rows:
        table.add_row(*row)
    console.print(table)
    lines = [HEADER, ['---', *('---:' for _ in HEADER[1:])], *rows]
    (args.work_dir / 'results.md').write_text(
        ''.join(f'| {" | ".join(line)} |\n' for line in lines)
    )
    (args.work_dir / 'results.json').write_text(
        json.dumps({'metric': args.metric, 'seeds': args.seeds, 'values': values}, indent=2)
    )
    console.print(
        f'{time.monotonic() - begin:.0f} s; written to {args.work_dir}/results.{{md,json}}'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
