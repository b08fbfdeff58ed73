# SPDX-License-Identifier: Apache-2.0
"""Timing, memory and tables of the benchmarks in this folder."""

from __future__ import annotations

import logging
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from se_mm.environment import processor
from se_mm.smoothing import OptionError
from se_mm.version import __version__

Update = Callable[[], object]


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], file: IO[str] | None = None
) -> None:
    """Print a table in Markdown, to the terminal or to a file."""
    table = Table(*columns, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*row)
    console = Console(width=200, markup=False, highlight=False, file=file)
    console.print(f'\n{title}', table, sep='\n')


def versions() -> str:
    """Return the versions that matter, for the head of a table."""
    return f'Python {platform.python_version()}, torch {torch.__version__}, se_mm {__version__}'


def machine(device: str) -> str:
    """Return the name of the GPU or of the processor."""
    return torch.cuda.get_device_name() if device == 'cuda' else processor()


def set_up(device: str, threads: int | None = None) -> None:
    """Prepare PyTorch, without warnings; raise OptionError if there is no such device."""
    if device == 'cuda' and not torch.cuda.is_available():
        raise OptionError('--device=cuda needs a GPU, and PyTorch finds none')
    logging.disable(logging.WARNING)
    warnings.filterwarnings('ignore')
    torch.manual_seed(0)
    if threads is not None:
        torch.set_num_threads(threads)


def timed(update: Update, device: str) -> float:
    """Return the seconds of one update."""
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    update()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(
    updates: Mapping[str, Update], turns: int, device: str, between: Update = lambda: None
) -> dict[str, float]:
    """Time updates in turns, with something between them; return the median milliseconds."""
    for update in updates.values():  # The first update copies everything and compiles kernels.
        update(), update()
    times: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(turns):
        for name, update in updates.items():
            between()
            times[name].append(timed(update, device))
    return {name: 1e3 * statistics.median(some) for name, some in times.items()}


def allocated(update: Update, device: str) -> int:
    """Return the bytes that an update allocates: the peak on a GPU, the total on the CPU."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        update()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        update()
    return sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())


def profiled(update: Update) -> tuple[float, float]:
    """Return the milliseconds and the kernel launches and copies of an update on a GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(10):
            update()
        torch.cuda.synchronize()
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return sum(event.time_range.elapsed_us() for event in kernels) / 1e4, len(kernels) / 10


def waits(update: Update) -> bool:
    """Return whether the host waits for the GPU during an update."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        update()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return False
