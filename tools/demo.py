# SPDX-License-Identifier: Apache-2.0
"""Train BYOL under TMA, SE and STS on glyphs on photographs, and compare them.

``make demo`` runs it. Each run is one of the ordinary configs, started by ``tools/train.py``; a run
that is complete is not repeated. It ends with a table and a picture of it in the work dir.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/byol_{}_conv5_1xb128_glyphs.py'
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
    'Top-1 in % on 2,000 test images of 20 letters. In the mean the three teachers are equally '
    'fast (momentum 0.01; keep_prob 0.99; keep_prob 0.7 with matched horizon), so this compares '
    'the mechanism and not the speed. One run each, with seed 0, does not decide which is better.'
)


class DemoFailure(Exception):
    """A run of the demo ended with an error."""


class Run:
    """One training, evaluated at its end, in a process of its own.

    Args:
        name: Its name in the table.
        work_dir: Its folder.
        command: Words of the command.
        iters: Training iterations.
    """

    def __init__(self, name: str, work_dir: Path, command: list[str], iters: int) -> None:
        self.name = name
        self.work_dir = work_dir
        self.command = command
        self.iters = iters
        self.process: subprocess.Popen | None = None

    @property
    def result(self) -> Path:
        """File of the metrics and of the command that led to them."""
        return self.work_dir / 'metrics.json'

    @property
    def metrics(self) -> dict[str, float] | None:
        """The metrics, once this very command is complete."""
        result = json.loads(self.result.read_text()) if self.result.exists() else {}
        return result['metrics'] if result.get('command') == self.command else None

    @property
    def log(self) -> Path:
        """File of all that the process prints."""
        return self.work_dir / 'log.txt'

    def forget(self) -> None:
        """Remove what an earlier process of this run has left, and nothing else."""
        # The folder may hold something of the user's, if it is not the run's: see the log.
        if self.log.exists():
            shutil.rmtree(self.work_dir)

    def start(self) -> None:
        """Start the process, on one core."""
        self.forget()
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> None:
        """Stop the process, if there is one."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def finished(self) -> bool:
        """Whether the process has ended; writes its metrics when it has.

        Raises:
            DemoFailure: If it ended with an error.
        """
        status = self.process.poll()
        if status is None:
            return False
        logged = self.scalars()
        if status != 0 or not logged or not set(METRICS) <= set(logged[-1]):
            tail = '\n'.join(self.log.read_text().splitlines()[-15:])
            raise DemoFailure(
                f'{self.name} ended with status {status}; {self.log} ends with\n{tail}'
            )
        metrics = {name: logged[-1][name] for name in METRICS}
        self.result.write_text(json.dumps({'command': self.command, 'metrics': metrics}, indent=2))
        return True

    def scalars(self) -> list[dict]:
        """What MMEngine has logged so far, a dict for each line of its log."""
        files = sorted(self.work_dir.glob('*/vis_data/scalars.json'))
        # Only whole lines: the last may still be being written.
        lines = files[-1].read_text().split('\n')[:-1] if files else []
        return [json.loads(line) for line in lines]

    def progress(self) -> tuple[int, str]:
        """Iterations done, and what to say of them."""
        logged = [line for line in self.scalars() if 'loss' in line]
        if not logged:
            return 0, 'starting'
        step = logged[-1]['step']
        return step, 'evaluating' if step >= self.iters else f'loss {logged[-1]["loss"]:.2f}'


def runs_of(work_dir: Path, iters: int, options: list[str]) -> list[Run]:
    """The runs of the demo: a network that is not trained, and a training for each smoothing."""

    def command(short: str, folder: Path, *changes: str) -> list[str]:
        tool, config = str(ROOT / 'tools/train.py'), str(ROOT / CONFIG.format(short))
        words = [sys.executable, tool, config, '--work-dir', str(folder)]
        return [*words, '--cfg-options', *changes, *options]

    # A learning rate of 0 leaves the weights as they were initialised, while batch norm gathers the
    # statistics without which even they would be misjudged.
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


def run_all(runs: list[Run], console: Console) -> None:
    """Make the runs that are missing, as many at a time as there are cores.

    Raises:
        DemoFailure: If one of them fails; the others are stopped.
    """
    waiting = [run for run in runs if run.metrics is None]
    for run in runs:
        if run not in waiting:
            console.print(f'{run.name}: complete already; --fresh repeats it')
    running: list[Run] = []

    def tell(run: Run, what: str) -> None:
        # Where there are no moving bars, as in the log of a CI job.
        if not console.is_terminal:
            console.print(f'{time.strftime("%H:%M:%S")} {run.name}: {what}')

    columns = (
        TextColumn('{task.description:<10}'),
        BarColumn(),
        TextColumn('{task.completed:>4.0f}/{task.total:.0f}'),
        TimeElapsedColumn(),
        TextColumn('{task.fields[note]}'),
    )
    try:
        with Progress(*columns, console=console, refresh_per_second=2) as progress:
            tasks = {
                run: progress.add_task(run.name, total=run.iters, start=False, note='waiting')
                for run in waiting
            }
            while waiting or running:
                while waiting and len(running) < (os.cpu_count() or 1):
                    run = waiting.pop(0)
                    running.append(run)  # before it starts, so that it is stopped in any case
                    run.start()
                    progress.start_task(tasks[run])
                    tell(run, 'started')
                for run in list(running):
                    done, note = run.progress()
                    if run.finished():
                        running.remove(run)
                        done, note = run.iters, 'done'
                        tell(run, note)
                        progress.stop_task(tasks[run])
                    progress.update(tasks[run], completed=done, note=note)
                time.sleep(0.5)
    finally:
        for run in running:
            run.stop()


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
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/demo')
    parser.add_argument('--iters', type=int, default=ITERS, help='training iterations of each run')
    parser.add_argument('--fresh', action='store_true', help='repeat runs that are complete')
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
        console.print(f'error: --iters={args.iters} is not allowed: at least 1.')
        return 2
    runs = runs_of(work_dir, args.iters, args.cfg_options)
    if args.fresh:
        for run in runs:
            run.forget()
    # Killed is as interrupted: no training is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    try:
        run_all(runs, console)
    except KeyboardInterrupt:
        console.print('interrupted: the same command goes on with the runs that are not complete.')
        return 130
    except DemoFailure as error:
        console.print(str(error), markup=False, highlight=False)
        return 1
    results = {run.name: run.metrics for run in runs}
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
