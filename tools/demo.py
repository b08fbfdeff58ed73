# SPDX-License-Identifier: Apache-2.0
"""Train FixMatch and BYOL with few labels in minutes, and compare their teachers.

``make demo`` runs it. With four labels per letter, FixMatch with TMA, SE and STS is compared with
training on the labelled images only. BYOL with TMA, SE and STS is pretrained without labels, probed
with five labels per digit, and compared with the untrained network. Each run trains an ordinary
config with ``tools/train.py``; completed runs are not repeated. The result is a table and a picture
in the work dir.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Lets it run from a checkout.

from se_mm.engine.launch import run_tool  # noqa: E402
from se_mm.home import TOOLS, find_config  # noqa: E402
from se_mm.smoothing.options import check_count  # noqa: E402
from se_mm.studies.runs import Run, digest, gpus_for, run_all  # noqa: E402

Results = dict[str, dict[str, float]]
INTERRUPTED = 'interrupted: run the same command again to complete the missing runs.'


@dataclass(frozen=True, eq=False)
class Part:
    """Trainings that are compared with each other."""

    title: str  # What they show.
    configs: dict[str, str]  # Name of each training -> name of its config.
    metrics: dict[str, str]  # Name of each metric in the logs -> its label.
    chance: float  # Accuracy of guessing, in %.


UNTRAINED = 'untrained'
PARTS = (
    Part(
        '4 labels per letter: the gain from unlabelled images',
        {
            'labels alone': 'supervised_tma_conv4_1xb32_glyphs-4.py',
            'FixMatch, TMA': 'fixmatch_tma_conv4_1xb32_glyphs-4.py',
            'FixMatch, SE': 'fixmatch_se_conv4_1xb32_glyphs-4.py',
            'FixMatch, STS': 'fixmatch_sts_conv4_1xb32_glyphs-4.py',
        },
        {'teacher/accuracy/top1': 'teacher', 'student/accuracy/top1': 'student'},
        chance=5.0,
    ),
    Part(
        '5 labels per digit: the gain from pretraining without labels',
        {
            UNTRAINED: 'byol_tma_conv5_1xb128_digits.py',
            'BYOL, TMA': 'byol_tma_conv5_1xb128_digits.py',
            'BYOL, SE': 'byol_se_conv5_1xb128_digits.py',
            'BYOL, STS': 'byol_sts_conv5_1xb128_digits.py',
        },
        {'teacher_knn/top1': "teacher's kNN", 'teacher_linear/top1': "teacher's linear probe"},
        chance=10.0,
    ),
)
# A learning rate of 0 keeps the initial weights, while batch norm collects the statistics that an
# evaluation needs.
STILL = ('optim_wrapper.optimizer.lr=0', 'param_scheduler=[]')
STILL_ITERS = 50
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ('#56B4E9', '#0072B2')
EXPLANATION = (
    'Top-1 accuracy in % on test images, from one training each, with seed {seed}. The three '
    'smoothings have the same horizon, so only the method differs. A single seed does not decide '
    'which of them is better.'
)


def runs_of(part: Part, work_dir: Path, iters: int | None, options: list[str]) -> list[Run]:
    """Return the runs of a part, of ``iters`` iterations or those of their configs."""
    runs = []
    for name, config in part.configs.items():
        path = find_config(config)
        cfg = Config.fromfile(path)
        length = iters or cfg.train_cfg.max_iters
        still = name == UNTRAINED
        length = min(length, STILL_ITERS) if still else length
        changes = [f'train_cfg.max_iters={length}', f'train_cfg.val_interval={length}']
        changes = [*(STILL if still else ()), *changes, *options]
        # Results of another config are not reused.
        stem = name.replace(', ', '-').replace(' ', '-').lower()
        folder = work_dir / f'{stem}-{digest([cfg.to_dict(), changes])}'
        command = [sys.executable, str(TOOLS / 'train.py'), str(path), '--work-dir', str(folder)]
        command += ['--cfg-options', *changes]
        runs.append(Run(name, folder, command, length))
    return runs


def write_tables(console: Console, results: dict[str, Results], seed: str) -> None:
    """Write the results as tables in Markdown."""
    for part in PARTS:
        table = Table('training', box=box.MARKDOWN)
        for label in part.metrics.values():
            table.add_column(label, justify='right')
        for name, metrics in results[part.title].items():
            table.add_row(name, *(f'{value:.1f}' for value in metrics.values()))
        console.print(f'\n{part.title}:', table, sep='\n')
    console.print(EXPLANATION.format(seed=seed))


def draw(results: dict[str, Results], path: Path) -> None:
    """Draw all parts as bars, side by side."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(PARTS), figsize=(11, 4.6), sharey=True, layout='constrained'
    )
    for axes, part in zip(panels, PARTS):
        names = list(results[part.title])
        for index, (metric, label) in enumerate(part.metrics.items()):
            places = [place + (index - 0.5) * 0.4 for place in range(len(names))]
            heights = [results[part.title][name][metric] for name in names]
            bars = axes.bar(places, heights, 0.37, label=label, color=COLOURS[index])
            axes.bar_label(bars, fmt='%.0f', fontsize=9)
        axes.axhline(part.chance, color='0.4', linestyle=':', linewidth=1)
        axes.text(len(names) - 0.2, part.chance, 'chance', va='bottom', ha='right', fontsize=8)
        axes.set_xlim(-0.55, len(names) - 0.2)
        axes.set_xticks(range(len(names)), [name.replace(', ', '\n') for name in names])
        axes.set_ylim(0, 108)
        axes.set_title(part.title)
        axes.legend(ncols=2, frameon=False, loc='upper left')
        axes.spines[['top', 'right']].set_visible(False)
    panels[0].set_ylabel('accuracy on test images (%)')
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Train FixMatch and BYOL with few labels, and compare their teachers.'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--iters', type=int, help='training iterations of each run')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='changes to every config'
    )
    return parser.parse_args()


def main() -> None:
    """Run the demo."""
    args = parse_args()
    console = Console()
    work_dir = args.work_dir.resolve()
    if args.iters is not None:
        check_count('--iters', args.iters, 1)
    parts = {part: runs_of(part, work_dir, args.iters, args.cfg_options) for part in PARTS}
    runs = [run for part in parts.values() for run in part]
    for kill in (signal.SIGINT, signal.SIGTERM):  # So that no training is left behind.
        signal.signal(kill, signal.default_int_handler)
    begin = time.monotonic()
    try:
        failures = run_all(runs, console, gpus_for())
    except KeyboardInterrupt:
        print(INTERRUPTED)
        sys.exit(130)
    if failures:
        sys.exit('\n'.join(map(str, failures)))
    results = {
        part.title: {run.name: {key: run.metrics[key] for key in part.metrics} for run in made}
        for part, made in parts.items()
    }
    (work_dir / 'results.json').write_text(json.dumps(results, indent=2))
    draw(results, work_dir / 'results.png')
    seed = dict(option.split('=', 1) for option in args.cfg_options).get('randomness.seed', '0')
    with (work_dir / 'results.md').open('w') as file:
        for output in (console, Console(file=file, width=100)):
            write_tables(output, results, seed)
    console.print(
        f'{time.monotonic() - begin:.0f} s; written to {work_dir}/results.{{json,md,png}}'
    )


if __name__ == '__main__':
    run_tool(main, INTERRUPTED)
