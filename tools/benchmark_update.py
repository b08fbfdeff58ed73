# SPDX-License-Identifier: Apache-2.0
"""Benchmark one teacher update of se_mm and of other libraries.

    python tools/benchmark_update.py

For each network the contestants take turns, one update at a time. The table has the median time of
an update, its ratio to mmengine's average and to a single lerp over as many elements (the lower
bound for an average), and the memory that it allocates; on a GPU also the number of kernel launches
and whether the host waits. In the sweep over sizes, the CPU caches are flushed before each update.
timm and ema-pytorch are included if they are installed. The other benchmarks use this one's timing
and tables.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Lets it run from a checkout.

from mmengine.config import Config  # noqa: E402
from mmengine.hub import get_config  # noqa: E402
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.model import ExponentialMovingAverage  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402

import se_mm  # noqa: E402
from se_mm.engine.launch import run_tool  # noqa: E402
from se_mm.environment import processor  # noqa: E402
from se_mm.home import find_config  # noqa: E402
from se_mm.smoothing import GRANULARITIES, OptionError, Settings, Smoother, keep_prob_schedule  # noqa: E402
from se_mm.smoothing.kernels import cpu, cuda  # noqa: E402
from se_mm.smoothing.options import check_count  # noqa: E402
from se_mm.smoothing.units import TensorPair, Units  # noqa: E402
from se_mm.smoothing.update import draw_picks  # noqa: E402

MOMENTUM = 0.01
MMENGINE = 'mmengine ExponentialMovingAverage'
LERP, COPY = 'one flat lerp', 'one flat copy'
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
    return (
        f'Python {platform.python_version()}, torch {torch.__version__}, se_mm {se_mm.__version__}'
    )


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


def pretrained(config: str) -> nn.Module:
    """Backbone and neck of a self-supervised model."""
    model = build('mmpretrain', config)
    return nn.Sequential(model.backbone, model.neck)


def sweep(millions: int) -> nn.Module:
    """Square layers with a million parameters each."""
    return nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(millions)))


def build(scope: str, config: str) -> nn.Module:
    """Build the model of a config, without pretrained weights."""
    cfg = get_config(config) if '::' in config else Config.fromfile(find_config(config))
    init_default_scope(scope)
    return MODELS.build(cfg.model)


SWEEP = (10, 100, 1000)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    'byol_r50': lambda: pretrained('byol_se_r50_8xb256.py'),
    'mocov3_vit-b': lambda: pretrained(
        'mmpretrain::mocov3/mocov3_vit-base-p16_16xb256-amp-coslr-300e_in1k.py'
    ),
    'softteacher_r50': lambda: (
        build('mmdet', 'softteacher_se_faster-rcnn-r50_8xb5_coco-10.py').student
    ),
    **{f'sweep_{millions}m': partial(sweep, millions) for millions in SWEEP},
}


def ours(
    student: nn.Module, teacher: nn.Module, keep_prob: float, momentum: float, granularity: str
) -> Update:
    """Return a function that makes the next update of se_mm at each call."""
    settings = Settings(keep_prob=keep_prob, momentum=momentum, granularity=granularity)
    smoother, steps = Smoother(teacher, settings), count(1)
    return lambda: smoother.update(student, next(steps), 10**6, seed=0)


def flat(student: nn.Module, copies: bool) -> Update:
    """Return an update of one flat tensor with as many numbers as the student has parameters."""
    new = nn.utils.parameters_to_vector(student.parameters()).detach()
    teacher = torch.randn_like(new)
    return (lambda: teacher.copy_(new)) if copies else (lambda: teacher.lerp_(new, MOMENTUM))


def contestants(
    student: nn.Module, keep_prob: float, peers: bool
) -> tuple[dict[str, Update], list[str]]:
    """Return the contestants, name -> update, and those that are not installed.

    Args:
        student: The network.
        keep_prob: The keep_prob of SE and STS, which share a teacher.
        peers: Whether to include all contestants. False, to save memory: only mmengine's and some
            of se_mm's.
    """
    teacher = deepcopy(student).requires_grad_(False)
    factories: dict[str, Callable[[], Update]] = {
        MMENGINE: lambda: moved_by(ExponentialMovingAverage(student, MOMENTUM), student)
    }
    if peers:
        factories |= {
            LERP: lambda: flat(student, copies=False),
            COPY: lambda: flat(student, copies=True),
            **{name: partial(factory, student) for name, factory in PEERS.items()},
        }
    factories['TMA (SETMAHook, keep_prob=0)'] = partial(
        ours, student, teacher, 0, MOMENTUM, 'tensor'
    )
    for granularity in GRANULARITIES if peers else ('tensor', 'channel'):
        for name, momentum in (('SE', 1.0), ('STS', MOMENTUM)):
            factories[f'{name}, {granularity}'] = partial(
                ours, student, teacher, keep_prob, momentum, granularity
            )
    updates, missing = {}, []
    for name, factory in factories.items():
        try:
            updates[name] = factory()
        except ImportError:
            missing.append(name)
    return updates, missing


def moved_by(averaged: nn.Module, student: nn.Module) -> Update:
    """Return the update of an averaged model with mmengine's or PyTorch's interface."""
    return lambda: averaged.update_parameters(student)


def cosine_ema(student: nn.Module) -> Update:
    """The average of mmpretrain."""
    from mmpretrain.models.utils import CosineEMA

    MessageHub.get_current_instance().update_info('max_iters', 10**6)
    return moved_by(CosineEMA(student, momentum=MOMENTUM), student)


def mean_teacher(student: nn.Module) -> Update:
    """The hook of mmdet, with buffers."""
    from mmdet.engine.hooks import MeanTeacherHook

    model = nn.Module()
    model.student, model.teacher = student, deepcopy(student).requires_grad_(False)
    hook = MeanTeacherHook(momentum=MOMENTUM, skip_buffer=False)
    return lambda: hook.momentum_update(model, MOMENTUM)


def averaged_model(student: nn.Module) -> Update:
    """The average of PyTorch, in its fastest form."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    average = get_ema_multi_avg_fn(1 - MOMENTUM)
    return moved_by(AveragedModel(student, multi_avg_fn=average), student)


def timm_ema(student: nn.Module) -> Update:
    """The average of timm."""
    from timm.utils import ModelEmaV3

    averaged = ModelEmaV3(student, decay=1 - MOMENTUM)
    return lambda: averaged.update(student)


def ema_pytorch(student: nn.Module) -> Update:
    """The average of ema-pytorch, in its fastest form."""
    from ema_pytorch import EMA

    options = dict(update_after_step=0, update_every=1, use_foreach=True)
    return EMA(student, beta=1 - MOMENTUM, **options).update


PEERS = {
    'mmpretrain CosineEMA': cosine_ema,
    'mmdet MeanTeacherHook': mean_teacher,
    'torch AveragedModel, foreach': averaged_model,
    'timm ModelEmaV3': timm_ema,
    'ema-pytorch': ema_pytorch,
}


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


def share_picked(student: nn.Module, name: str, keep_prob: float, updates: int) -> float:
    """Return the mean share of the parameters that are picked in the timed updates."""
    granularity = name.split(', ')[1]
    parameters = [TensorPair(name, p, p) for name, p in student.named_parameters()]
    units = Units(parameters, granularity)
    picked = 0
    for step in range(3, updates + 3):
        picks = draw_picks(units, 0, step, keep_prob)
        shares = (torch.as_tensor(pick).float().mean() for pick in picks)
        picked += sum(float(s) * p.teacher.numel() for s, p in zip(shares, parameters))
    return picked / updates / sum(pair.teacher.numel() for pair in parameters)


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Time all contestants on one network and print their table.

    Returns:
        For a sweep, name -> milliseconds per picked number of the SE and STS contestants; else
        empty.
    """
    student = NETWORKS[name]().to(args.device)
    size = sum(p.numel() * p.element_size() for p in student.parameters())
    updates, missing = contestants(student, args.keep_prob, 'sweep' not in name)
    # A small network would stay in the CPU caches, which training would overwrite between updates.
    others = torch.zeros(1 << 28 if 'sweep' in name and args.device == 'cpu' else 0)
    times = medians(updates, args.updates, args.device, lambda: others.add_(1))

    on_gpu = args.device == 'cuda'
    columns = ['update', 'ms', 'to mmengine', 'to a flat lerp', 'allocates, of the teacher']
    columns += ['launches', 'host waits'] if on_gpu else []
    rows = []
    for contestant, update in updates.items():
        milliseconds = times[contestant]
        row = [contestant, f'{milliseconds:.2f}', f'{milliseconds / times[MMENGINE]:.2f}']
        row.append(f'{milliseconds / times[LERP]:.2f}' if LERP in times else '')
        row.append(f'{allocated(update, args.device) / size:.1%}')
        if on_gpu:
            row += [f'{profiled(update)[1]:g}', 'yes' if waits(update) else 'no']
        rows.append(row)
    numbers = sum(p.numel() for p in student.parameters())
    tensors = len(list(student.parameters()))
    title = f'## {name}: {numbers / 1e6:.1f} million parameters in {tensors} tensors'
    print_table(title, columns, rows)
    for contestant in missing:
        print(f'{contestant} is not installed.')
    if 'sweep' in name:
        return {
            contestant: times[contestant]
            / (numbers * share_picked(student, contestant, args.keep_prob, args.updates))
            for contestant in times
            if contestant.startswith(('SE,', 'STS,'))
        }
    return {}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS), help='default: all')
    add('--keep-prob', type=float, default=0.7, help='for SE and STS')
    add('--updates', type=int, default=60, help='timed updates per contestant')
    add('--threads', type=int, default=2, help="PyTorch's threads on the CPU")
    add('--device', choices=('cpu', 'cuda'), default='cpu')
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    args = parse_args()
    check_count('--updates', args.updates, 1)
    keep_prob_schedule('--keep-prob', args.keep_prob)
    set_up(args.device, args.threads)
    kernel = cuda.triton_kernel if args.device == 'cuda' else cpu.cpu_kernel
    print(
        f'{machine(args.device)}, {args.threads} threads; {versions()}, '
        f'{"with" if kernel else "without"} its kernel; keep_prob {args.keep_prob:g}, medians of '
        f'{args.updates}.'
    )
    per_number = {name: measure(name, args) for name in args.networks}
    small, large = (per_number.get(f'sweep_{millions}m') for millions in (SWEEP[0], SWEEP[-1]))
    if small and large:
        title = f'## Time per picked element: {SWEEP[-1]} million parameters relative to {SWEEP[0]}'
        ratios = [[name, f'{large[name] / small[name]:.2f}'] for name in small]
        print_table(title, ['update', 'ratio'], ratios)


if __name__ == '__main__':
    run_tool(main, 'interrupted: only the tables above are complete.')
