# SPDX-License-Identifier: Apache-2.0
"""The global random generators of Python, NumPy and torch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def rng_untouched() -> Iterator[None]:
    """Restore the global generators on leaving, that of the current GPU too.

    Even a ``DataLoader`` without shuffling draws from torch's when it is iterated, so evaluating
    would otherwise change the rest of the training.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seed_all(key: Sequence[int]) -> None:
    """Seed the global generators of the CPU by whole numbers of at least 0."""
    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    # Not torch.manual_seed, which would seed the GPUs' too.
    torch.default_generator.manual_seed(int(words[2]))
