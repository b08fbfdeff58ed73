# SPDX-License-Identifier: Apache-2.0
"""Run several trainings in parallel, each in its own process."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any, Optional

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import Progress

from se_mm.checkpoints.write import whole_file
from se_mm.environment import processor
from se_mm.smoothing.options import check_choice

# Keys that MMEngine logs beside the metrics of an evaluation.
_NO_METRICS = {'step', 'iter', 'epoch', 'time', 'data_time', 'memory'}
_HOOK = 'default_hooks.final_evaluation.type=se_mm.studies.runs.FinalEvaluationHook'
# Linux ends the process if its parent is killed: PR_SET_PDEATHSIG.
_SET_UP = partial(ctypes.CDLL(None).prctl, 1, signal.SIGTERM) if sys.platform == 'linux' else None


class RunFailure(Exception):
    """A run ended with an error."""


class FinalEvaluationHook(Hook):
    """Evaluates a resumed training that has no iterations left.

    MMEngine saves the last checkpoint before the last evaluation: a training that was killed in
    between would end without an evaluation when it is resumed.
    """

    evaluated = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note that the model changes."""
        self.evaluated = False

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Note the evaluation."""
        self.evaluated = True

    def after_train(self, runner: Runner) -> None:
        """Evaluate unless the training has just done so."""
        if runner.val_loop is not None and not self.evaluated:
            runner.val_loop.run()


class Run:
    """One training with a final evaluation, in its own process.

    Its folder has ``run.json`` (what, where and when), ``log.txt`` and, at last, ``metrics.json``.

    Args:
        name: Its name in messages.
        work_dir: Its folder.
        command: Words of the command, with the options of ``tools/train.py``.
        iters: Training iterations, or epochs.
        identity: Results with another identity are not reused. None: the command.
    """

    def __init__(
        self, name: str, work_dir: Path, command: Sequence[str], iters: int, identity: Any = None
    ) -> None:
        self.name, self.work_dir, self.iters = name, work_dir, iters
        self.command = list(command)
        identity = self.command if identity is None else identity
        self.identity = json.loads(json.dumps(identity, default=str))
        self.process: Optional[subprocess.Popen] = None
        self.stopped = False

    @property
    def metrics(self) -> Optional[dict[str, float]]:
        """The metrics of the last evaluation; None until the run is complete."""
        return self._read('metrics.json').get('metrics')

    def train(self, gpu: str = '') -> None:
        """Train and evaluate, from the last checkpoint if there is one, unless it is complete.

        Args:
            gpu: As in CUDA_VISIBLE_DEVICES; empty: all.

        Raises:
            RunFailure: If the training ends with an error, or without an evaluation.
        """
        self.work_dir.parent.mkdir(parents=True, exist_ok=True)
        with self.work_dir.with_name(f'.{self.work_dir.name}.lock').open('w') as lock:
            while not self.stopped:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:  # Another comparison, or what is left of it, trains it.
                    time.sleep(0.5)
            if self.stopped or self.metrics is not None:
                return
            status = self._start(gpu, lock).wait()
            last = (self.scalars() or [{}])[-1]
            metrics = {name: last[name] for name in last if name not in _NO_METRICS}
            if status != 0 or not metrics or 'loss' in metrics:
                log = self.work_dir / 'log.txt'
                what = f'with status {status}' if status else 'without an evaluation'
                tail = '\n'.join(log.read_text().splitlines()[-15:])
                raise RunFailure(f'{self.name} ended {what}; {log} ends with\n{tail}')
            self._write('metrics.json', metrics=metrics)

    def stop(self) -> None:
        """Stop training, or waiting for another comparison that trains it."""
        self.stopped = True
        if self.process is not None:
            self.process.terminate()

    def _start(self, gpu: str, lock: IO[str]) -> subprocess.Popen:
        """Start the process; it holds the lock until it ends. An earlier run is set aside."""
        starts = self._read('run.json').get('starts', [])
        command = self.command
        if starts and (self.work_dir / 'last_checkpoint').exists():
            command = [*command, '--resume', '--cfg-options', _HOOK]
        elif (self.work_dir / 'log.txt').exists():
            places = (self.work_dir.with_name(f'{self.work_dir.name}.old-{n}') for n in count(1))
            self.work_dir.rename(next(place for place in places if not place.exists()))
        date = time.strftime('%Y-%m-%dT%H:%M:%S%z')
        start: dict[str, Any] = {'date': date, 'host': platform.node()}
        start |= {'cpu': processor(), 'gpu': gpu, 'torch': torch.__version__, 'command': command}
        self._write('run.json', starts=[*starts, start])
        visible = {'CUDA_VISIBLE_DEVICES': gpu} if gpu else {}
        with (self.work_dir / 'log.txt').open('a') as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, 'OMP_NUM_THREADS': '1', **visible},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
                preexec_fn=_SET_UP,
            )
        return self.process

    def scalars(self) -> list[dict]:
        """Return what MMEngine has logged since the last start, one dict per line of its log."""
        files = sorted(self.work_dir.glob('*/vis_data/scalars.json'))
        # Complete lines only: the last one may be half written.
        lines = files[-1].read_text().split('\n')[:-1] if files else []
        return [json.loads(line) for line in lines]

    def done(self) -> int:
        """Return the number of iterations (or epochs) done."""
        if self.metrics is not None:
            return self.iters
        logged = [line.get('epoch', line['step']) for line in self.scalars() if 'loss' in line]
        return min([0, *logged][-1], self.iters)

    def check_reported(self, wanted: Sequence[str]) -> None:
        """Raise OptionError if the run is complete without one of the wanted metrics."""
        metrics = self.metrics
        for metric in wanted if metrics else ():
            check_choice(f'a metric of {self.name}', metric, metrics or {})

    def _read(self, file: str) -> dict[str, Any]:
        """Return the content of a file in the folder if it has this run's identity, else {}."""
        try:
            known = json.loads((self.work_dir / file).read_text())
        except (OSError, json.JSONDecodeError):  # Missing or damaged.
            return {}
        return known if known.get('identity') == self.identity else {}

    def _write(self, file: str, **content: Any) -> None:
        with whole_file(None, self.work_dir / file) as path:
            path.write_text(json.dumps({'identity': self.identity, **content}, indent=2))


def digest(value: Any) -> str:
    """Return a short hash of a value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_all(
    runs: Sequence[Run],
    console: Console,
    jobs: Optional[int] = None,
    wanted: Sequence[str] = (),
    gpus: Optional[int] = None,
) -> list[RunFailure]:
    """Make the missing runs, and return the failures.

    Args:
        runs: All runs, including completed ones.
        console: Where to show progress.
        jobs: Number of runs at a time. None: one per GPU, or per core without GPUs.
        wanted: Metrics that each run must report, or else OptionError ends all.
        gpus: Number of GPUs to distribute the runs over. None: those of this machine.

    Raises:
        RunFailure: If a run fails before any has succeeded, since all may fail in the same way.
    """
    for run in runs:
        run.check_reported(wanted)
    missing = [run for run in runs if run.metrics is None]
    console.print(f'{len(runs) - len(missing)} of {len(runs)} runs are already complete.')
    jobs = min(jobs or torch.cuda.device_count() or os.cpu_count() or 1, len(missing) or 1)
    gpus = torch.cuda.device_count() if gpus is None else gpus
    names = [name.strip() for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')]
    names = ([name for name in names if name] or [str(index) for index in range(gpus)])[:gpus]
    free = [names[index % len(names)] if names else '' for index in range(jobs)]

    def say(run: Run, what: str) -> None:
        console.print(time.strftime('%X'), f'{run.name}: {what}', markup=False, soft_wrap=True)

    def train(run: Run) -> None:
        gpu = free.pop()
        say(run, 'started')
        try:
            run.train(gpu)
        finally:
            free.append(gpu)

    failures = []
    bars = Progress(console=console, speed_estimate_period=3600)
    total, done = sum(run.iters for run in missing), sum(run.done() for run in missing)
    bar = bars.add_task('training', total=total, completed=done)
    with bars, ThreadPoolExecutor(jobs) as pool:
        pending = {pool.submit(train, run): run for run in missing}
        try:
            while pending:
                for future in wait(pending, 1, FIRST_COMPLETED).done:
                    run, failure = pending.pop(future), future.exception()
                    say(run, 'failed' if failure else 'done')
                    if isinstance(failure, RunFailure) and any(each.metrics for each in runs):
                        failures.append(failure)
                    else:
                        future.result()
                    run.check_reported(wanted)
                bars.update(bar, completed=sum(run.done() for run in missing))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in pending):
                for run in pending.values():
                    run.stop()
                time.sleep(0.1)
    return failures
