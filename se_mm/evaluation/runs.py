# SPDX-License-Identifier: Apache-2.0
"""Run several trainings in parallel, each in its own process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from se_mm.smoothing.options import OptionError, did_you_mean

# Keys that MMEngine logs beside the metrics of an evaluation.
_NO_METRICS = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory')


class Run:
    """One training with a final evaluation, in its own process.

    Args:
        name: Its name in the table.
        work_dir: Its work dir.
        command: Words of the command; ``--resume`` is appended to resume it.
        iters: Training iterations, or epochs.
        identity: JSON value that identifies the run: results with another identity are not reused.
            None: the command.
    """

    def __init__(
        self,
        name: str,
        work_dir: Path,
        command: Sequence[str],
        iters: int,
        identity: Any = None,
    ) -> None:
        self.name = name
        self.work_dir = work_dir
        self.command = list(command)
        self.iters = iters
        self.identity = self.command if identity is None else identity
        self.process: subprocess.Popen | None = None
        self._lock: IO[str] | None = None
        self._resumed = False
        self._device = ''

    @property
    def metrics(self) -> dict[str, float] | None:
        """The metrics of the last evaluation; None until the run is complete."""
        return self._known('metrics.json').get('metrics')

    @property
    def log(self) -> Path:
        """The file with the output of the process."""
        return self.work_dir / 'log.txt'

    def set_aside(self) -> None:
        """Rename the folder of an earlier run to ``NAME.old-N`` to preserve it."""
        if self.log.exists():
            places = (self.work_dir.with_name(f'{self.work_dir.name}.old-{n}') for n in count(1))
            self.work_dir.rename(next(place for place in places if not place.exists()))

    def start(self, device: str = '') -> None:
        """Start the process on one core, or resume it from its last checkpoint.

        Args:
            device: The GPU to use, as CUDA_VISIBLE_DEVICES names it. Empty: all.
        """
        self._take_over()
        self._device = device
        self._resumed = (
            bool(self._known('run.json')) and (self.work_dir / 'last_checkpoint').exists()
        )
        if not self._resumed:
            self.set_aside()
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self._write('run.json', {})
        gpu = {'CUDA_VISIBLE_DEVICES': device} if device else {}
        with self.log.open('a' if self._resumed else 'w') as log:
            self.process = subprocess.Popen(
                [*self.command, '--resume'] if self._resumed else self.command,
                env={**os.environ, 'OMP_NUM_THREADS': '1', **gpu},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock.fileno()],
            )
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(str(self.process.pid))
        self._lock.flush()

    def stop(self) -> None:
        """Stop the process if it is running."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self._release()

    def finished(self) -> bool:
        """Return whether the process has ended, and write its metrics if it has.

        Raises:
            RunFailure: If it ended with an error, or without an evaluation.
        """
        status = self.process.poll()
        if status is None:
            return False
        logged = self.scalars()
        metrics = {} if not logged or 'loss' in logged[-1] else logged[-1]
        metrics = {name: value for name, value in metrics.items() if name not in _NO_METRICS}
        if status == 0 and not metrics and self._resumed:
            # It was interrupted in its last evaluation, which a resumed run does not repeat.
            self._release()
            self.set_aside()
            self.start(self._device)
            return False
        self._release()
        if status != 0 or not metrics:
            tail = '\n'.join(self.log.read_text().splitlines()[-15:])
            what = f'with status {status}' if status else 'without an evaluation'
            raise RunFailure(f'{self.name} ended {what}; {self.log} ends with\n{tail}')
        self._write('metrics.json', {'metrics': metrics})
        return True

    def scalars(self) -> list[dict]:
        """Return what MMEngine has logged so far, one dict per line of its log."""
        files = sorted(self.work_dir.glob('*/vis_data/scalars.json'))
        # Complete lines only: the last one may be half written.
        lines = files[-1].read_text().split('\n')[:-1] if files else []
        return [json.loads(line) for line in lines]

    def progress(self) -> tuple[int, str]:
        """Return the iterations done, and a note on the progress."""
        logged = [line for line in self.scalars() if 'loss' in line]
        if not logged:
            return 0, 'starting'
        step = logged[-1]['step']
        return step, 'evaluating' if step >= self.iters else f'loss {logged[-1]["loss"]:.2f}'

    def _known(self, file: str) -> dict[str, Any]:
        """Return the content of a file in the folder if it has this run's identity, else {}."""
        try:
            known = json.loads((self.work_dir / file).read_text())
        except (OSError, json.JSONDecodeError):  # Missing or half written.
            return {}
        return known if known.get('identity') == self.identity else {}

    def _write(self, file: str, what: dict[str, Any]) -> None:
        path = self.work_dir / file
        path.write_text(json.dumps({'identity': self.identity, **what}, indent=2))

    def _take_over(self) -> None:
        """Stop a process of this run that a killed comparison left behind.

        That process inherited the lock and holds it until it ends, so the process id in the file
        cannot belong to another process by now.
        """
        path = self.work_dir.with_name(self.work_dir.name + '.lock')
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.open('a+')
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            pid = self._lock.read()
            if pid:
                os.kill(int(pid), signal.SIGTERM)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _release(self) -> None:
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None


class RunFailure(Exception):
    """A run ended with an error."""


def check_reported(wanted: Sequence[str], run: Run) -> None:
    """Check that a completed run has reported all requested metrics.

    Raises:
        OptionError: If one is missing; it lists the reported ones.
    """
    for metric in wanted:
        if run.metrics and metric not in run.metrics:
            raise OptionError(
                f'metric must be one of those that {run.name} reported, '
                f'{", ".join(run.metrics)}, got {metric!r}.{did_you_mean(metric, run.metrics)}'
            )


def default_jobs() -> int:
    """Return the number of parallel runs: the number of GPUs, or of cores without GPUs."""
    return torch.cuda.device_count() or os.cpu_count() or 1


def _visible_gpu(index: int) -> str:
    """Name a GPU of this process for a process that it starts: a number or a UUID."""
    names = [name for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if name.strip()]
    return names[index].strip() if index < len(names) else str(index)


def run_all(
    runs: Sequence[Run],
    console: Console,
    jobs: int | None = None,
    wanted: Sequence[str] = (),
    gpus: int | None = None,
) -> list[RunFailure]:
    """Make the missing runs.

    Args:
        runs: All runs, including completed ones.
        console: Where to show progress.
        jobs: Number of runs at a time. None: :func:`default_jobs`.
        wanted: Names of metrics that each run must report.
        gpus: Number of GPUs to distribute the runs over. None: those of this machine.

    Returns:
        The failures; all other runs are complete.

    Raises:
        OptionError: If a run did not report a metric; the others are stopped.
        RunFailure: If a run fails before any has succeeded, since all may fail in the same way.
    """
    waiting = [run for run in runs if run.metrics is None]
    complete = [run for run in runs if run.metrics is not None]
    if complete:
        console.print(
            f'{len(complete)} of {len(runs)} runs are already complete; --fresh repeats them.'
        )
    for run in complete:
        check_reported(wanted, run)
    jobs = jobs or default_jobs()
    gpus = torch.cuda.device_count() if gpus is None else gpus
    free = [_visible_gpu(index % gpus) if gpus else '' for index in range(jobs)]
    running: dict[Run, str] = {}
    failures: list[RunFailure] = []
    succeeded = bool(complete)

    def tell(run: Run, what: str) -> None:
        # Without a terminal there are no progress bars, as in the log of a CI job.
        if not console.is_terminal:
            console.print(f'{time.strftime("%H:%M:%S")} {run.name}: {what}', soft_wrap=True)

    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('{task.fields[note]}'),
    )
    try:
        with Progress(*columns, console=console, refresh_per_second=2) as progress:
            whole = progress.add_task('runs', total=len(runs), completed=len(complete), note='')
            tasks = {}
            while waiting or running:
                while waiting and free:
                    run = waiting.pop(0)
                    # Before the start, so that it is stopped in any case.
                    running[run] = free.pop(0)
                    run.start(running[run])
                    tasks[run] = progress.add_task(run.name, total=run.iters, note='starting')
                    tell(run, 'started')
                for run in list(running):
                    done, note = run.progress()
                    try:
                        finished = run.finished()
                    except RunFailure as failure:
                        if not succeeded:
                            raise
                        failures.append(failure)
                        finished, note = True, 'failed'
                    else:
                        if finished:
                            check_reported(wanted, run)
                            succeeded, note = True, 'done'
                    progress.update(tasks[run], completed=done, note=note)
                    if finished:
                        free.append(running.pop(run))
                        tell(run, note)
                        progress.remove_task(tasks.pop(run))
                        progress.advance(whole)
                time.sleep(0.5)
    finally:
        for run in running:
            run.stop()
    return failures
