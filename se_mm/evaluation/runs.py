# SPDX-License-Identifier: Apache-2.0
"""Several trainings, each in a process of its own, as many at a time as there are cores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[2]


class RunFailure(Exception):
    """A run ended with an error."""


class Run:
    """One training, evaluated at its end, in a process of its own.

    Args:
        name: Its name in the table.
        work_dir: Its folder.
        command: Words of the command.
        iters: Training iterations.
        wanted: Names of the metrics that it must end with; the others are not kept.
    """

    def __init__(
        self,
        name: str,
        work_dir: Path,
        command: list[str],
        iters: int,
        wanted: Sequence[str],
    ) -> None:
        self.name = name
        self.work_dir = work_dir
        self.command = command
        self.iters = iters
        self.wanted = wanted
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
            RunFailure: If it ended with an error.
        """
        status = self.process.poll()
        if status is None:
            return False
        logged = self.scalars()
        if status != 0 or not logged or not set(self.wanted) <= set(logged[-1]):
            tail = '\n'.join(self.log.read_text().splitlines()[-15:])
            raise RunFailure(
                f'{self.name} ended with status {status}; {self.log} ends with\n{tail}'
            )
        metrics = {name: logged[-1][name] for name in self.wanted}
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


def run_all(runs: list[Run], console: Console, jobs: int | None = None) -> None:
    """Make the runs that are missing, as many at a time as there are cores.

    Raises:
        RunFailure: If one of them fails; the others are stopped.
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
        TextColumn('{task.description:<16}'),
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
                while waiting and len(running) < (jobs or os.cpu_count() or 1):
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
