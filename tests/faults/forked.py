# SPDX-License-Identifier: Apache-2.0
"""Runs the tools in forks of this process, which has imported already what takes them seconds.

A child is a user's command in everything else: a session and a working directory of its own, a
closed standard input, Ctrl-C not ignored, and a process that ends as the tool ends it.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn, Optional


class ForkedRun:
    """A tool that runs.

    Attributes:
        pid: Its process, which leads a session and so a process group.
        log: The file of its output and error output together.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self._status: Optional[int] = None

    def poll(self) -> Optional[int]:
        """The exit status, or None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, timeout: float = 600.0) -> int:
        """Wait for its end.

        Args:
            timeout: Seconds after which it is killed, with all that it started.

        Returns:
            Its exit status; the negative number of the signal that killed it.

        Raises:
            TimeoutError: If it had to be killed, with the end of what it said.
        """
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                self.kill(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self._status = -signal.SIGKILL
                raise TimeoutError(f'still running after {timeout} s:\n{self.output()[-3000:]}')
            time.sleep(0.005)
        return status

    def kill(self, number: int, group: bool = True) -> None:
        """Send a signal to it and, unless ``group`` is False, to all that it started."""
        if self._status is None:
            (os.killpg if group else os.kill)(self.pid, number)

    def output(self) -> str:
        """What it has said until now, on both streams."""
        return self.log.read_text(errors='replace') if self.log.exists() else ''


def warm() -> None:
    """Import what the tools import, so that a fork need not; on one thread, which a fork needs."""
    import torch

    torch.set_num_threads(1)  # Threads of a pool would not be there in a fork.
    import se_mm  # noqa: F401

    for package in ('mmpretrain', 'mmdet'):
        if find_spec(package) is not None:
            __import__(f'{package}.utils').utils.register_all_modules(init_default_scope=False)


def start(
    argv: Sequence[object],
    cwd: Path,
    env: Optional[Mapping[str, str]] = None,
    log: Optional[Path] = None,
) -> ForkedRun:
    """Start ``python argv[0] argv[1:]`` in a fork, and do not wait for it.

    Args:
        argv: The path of the script and its arguments.
        cwd: The folder it runs in.
        env: Environment variables beside those of this process.
        log: The file for its output; None: ``run.log`` in ``cwd``.
    """
    log = Path(cwd) / 'run.log' if log is None else Path(log)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        try:
            _become([str(arg) for arg in argv], Path(cwd), dict(env or {}), log)
        finally:  # Never back into the code of the test, whatever went wrong.
            os._exit(120)
    return ForkedRun(pid, log)


def _become(argv: list[str], cwd: Path, env: dict[str, str], log: Path) -> NoReturn:
    """Be the tool, and end as it ends."""
    os.setsid()
    # What runs in a shell's background ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    # The test runner's capture has put its own objects in place of these.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, 'w', buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, 'w', buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    os.environ.update({'OMP_NUM_THREADS': '1', **env})
    os.chdir(cwd)
    sys.argv = argv
    status = 0
    try:
        runpy.run_path(argv[0], run_name='__main__')
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
