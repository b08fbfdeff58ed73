# SPDX-License-Identifier: Apache-2.0
"""Starts the tools as a user does: as processes, in a folder that is not the project's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launched import free_port

pytest.importorskip('mmpretrain')

TOOLS = Path(__file__).parents[2] / 'tools'


class Tools:
    """Starts tools in a folder.

    Attributes:
        config: A config of a small classifier that trains 4 iterations and saves after 2 and 4.
        folder: Where the tools are started, empty at first.
    """

    config = str(Path(__file__).parent / 'digits_config.py')

    def __init__(self, folder):
        self.folder = folder

    def start(self, tool, *args, **environment):
        """Start a tool by its file name, and do not wait for it."""
        program = sys.executable if tool.endswith('.py') else 'bash'
        return subprocess.Popen(
            [program, str(TOOLS / tool), *(str(arg) for arg in args)],
            cwd=self.folder,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # What runs in a shell's background ignores Ctrl-C, and so would all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, tool, *args, **environment):
        """Run a tool to its end: its exit status, output and error output."""
        process = self.start(tool, *args, **environment)
        output, errors = process.communicate(timeout=900)
        return process.returncode, output, errors

    def succeed(self, tool, *args, **environment):
        """Run a tool that must succeed, and return its output."""
        status, output, errors = self.run(tool, *args, **environment)
        assert status == 0, output[-2000:] + errors[-4000:]
        return output

    def fail(self, tool, *args, **environment):
        """Run a tool that must refuse what it is given, and return its one line of error."""
        status, _, errors = self.run(tool, *args, **environment)
        assert status == 2, errors
        assert 'Traceback' not in errors
        (line,) = [line for line in errors.splitlines() if line.startswith('error: ')]
        return line


@pytest.fixture
def tools(tmp_path):
    """Starts tools in an empty folder."""
    return Tools(tmp_path)


@pytest.fixture(scope='session')
def tools_in():
    """Makes tools for a folder, for fixtures that outlive a test."""
    return Tools


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """Tools in a folder in which the config was trained, to ``work_dirs/digits_config``."""
    tools = Tools(tmp_path_factory.mktemp('trained'))
    tools.output = tools.succeed('train.py', tools.config)
    return tools


@pytest.fixture
def port():
    """A port that is free, as an environment variable's value."""
    return free_port()
