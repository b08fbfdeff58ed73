# SPDX-License-Identifier: Apache-2.0
"""Run several trainings in parallel, each in its own process."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
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

    def before_train(self, runner: Runner) -> None:
        """Note whether iterations are left."""
        self.complete = runner.iter >= runner.max_iters

    def after_train(self, runner: Runner) -> None:
        """Evaluate if no iterations were left."""
        if self.complete and runner.val_loop is not None:
            runner.val_loop.run()


@dataclass(eq=False)
class Run:
    """One training with a final evaluation, in its own process.

    Its folder has ``log.txt`` and, once it is complete, ``metrics.json``. What is in the folder is
    continued, so another config or seed needs another folder.
    """

    name: str  # In messages.
    work_dir: Path
    command: Sequence[str]  # Its words, with the options of tools/train.py.
    iters: int  # Training iterations, or epochs.
    process: Optional[subprocess.Popen] = None
    stopped: bool = False

    @property
    def metrics(self) -> Optional[dict[str, float]]:
        """The metrics of the last evaluation; None until the run is complete."""
        file = self.work_dir / 'metrics.json'
        return json.loads(file.read_text())['metrics'] if file.exists() else None

    def train(self, gpu: str = '') -> None:
        """Train and evaluate, from the last checkpoint if there is one, unless it is complete.

        Args:
            gpu: As in CUDA_VISIBLE_DEVICES; empty: all.

        Raises:
            RunFailure: If the training ends with an error, or without an evaluation.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with (self.work_dir / 'lock').open('w') as lock:
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
            with whole_file(None, self.work_dir / 'metrics.json') as file:
                file.write_text(json.dumps({'metrics': metrics}, indent=2))

    def stop(self) -> None:
        """Stop training, or waiting for another comparison that trains it."""
        self.stopped = True
        if self.process is not None:
            self.process.terminate()

    def _start(self, gpu: str, lock: IO[str]) -> subprocess.Popen:
        """Start the process, which holds the lock until it ends."""
        command = list(self.command)
        if (self.work_dir / 'last_checkpoint').exists():
            command += ['--resume', '--cfg-options', _HOOK]
        visible = {'CUDA_VISIBLE_DEVICES': gpu} if gpu else {}
        with (self.work_dir / 'log.txt').open('a') as log:
            where = f'{platform.node()}, {processor()}, GPU {gpu or "not chosen"}'
            print(time.strftime('%FT%T%z'), where, shlex.join(command), file=log, flush=True)
            self.process = subprocess.Popen(
                command,
                env={**os.environ, 'OMP_NUM_THREADS': '1', **visible},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
                preexec_fn=_SET_UP,
            )
        if self.stopped:  # While the process was started.
            self.process.terminate()
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


def digest(value: Any) -> str:
    """Return a short hash of a value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def gpus_for(jobs: Optional[int] = None) -> list[str]:
    """Return a GPU of this machine for each of ``jobs`` simultaneous runs; empty without GPUs.

    By default there is one run per GPU, or per core without GPUs.
    """
    count = torch.cuda.device_count()
    visible = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(count)))
    names = [name.strip() for name in visible.split(',')][:count]
    return list(islice(cycle(names or ['']), jobs or count or os.cpu_count() or 1))


def run_all(
    runs: Sequence[Run], console: Console, gpus: Sequence[str], wanted: Sequence[str] = ()
) -> list[RunFailure]:
    """Make the missing runs, and return the failures.

    If a run fails before any has succeeded, the others are stopped: all may fail in the same way.

    Args:
        runs: All runs, including completed ones.
        console: Where to show progress.
        gpus: The GPU of each simultaneous run, as in CUDA_VISIBLE_DEVICES; empty: all.
        wanted: Metrics that each run must report, or else OptionError ends all.
    """
    for run in runs:
        run.check_reported(wanted)
    missing = [run for run in runs if run.metrics is None]
    console.print(f'{len(runs) - len(missing)} of {len(runs)} runs are already complete.')
    free = list(gpus)

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
    with bars, ThreadPoolExecutor(len(gpus)) as pool:
        pending = {pool.submit(train, run): run for run in missing}
        try:
            while pending:
                for future in wait(pending, 1, FIRST_COMPLETED).done:
                    run, failure = pending.pop(future), future.exception()
                    say(run, 'failed' if failure else 'done')
                    if not isinstance(failure, RunFailure):
                        future.result()
                        run.check_reported(wanted)
                        continue
                    failures.append(failure)
                    if not any(each.metrics for each in runs):
                        return failures
                bars.update(bar, completed=sum(run.done() for run in missing))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for run in pending.values():
                run.stop()
    return failures
