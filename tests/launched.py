# SPDX-License-Identifier: Apache-2.0
"""What tests need that start programs as a user does."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

SHRUNK = [
    'train_dataloader.batch_size=4',
    'train_dataloader.batch_sampler.mu=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
]
"""Options by which a small FixMatch config trains two iterations."""


def free_port():
    """A port that nobody listens at, as an environment variable's value."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])


def start(project, *words, **environment):
    """Start a command in a folder whose modules it can import; its output goes to the next log."""
    log = project / f'{len(list(project.glob("*.log")))}.log'
    with log.open('w') as output:
        return subprocess.Popen(
            [str(word) for word in words],
            cwd=project,
            env={
                **os.environ,
                'OMP_NUM_THREADS': '1',
                'PYTHON': sys.executable,
                'PYTHONPATH': f'{project}:{os.environ.get("PYTHONPATH", "")}',
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def write_digits(folder, count):
    """Write the first real digits as files ``0.png``, ``1.png``, ..., of 8 x 8 pixels."""
    image = pytest.importorskip('PIL.Image')
    folder.mkdir()
    for index, digit in enumerate(load_digits().images[:count]):
        picture = image.fromarray((digit * 15.9).astype(np.uint8)).convert('RGB')
        picture.save(folder / f'{index}.png')
