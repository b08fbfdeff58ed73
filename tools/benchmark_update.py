# SPDX-License-Identifier: Apache-2.0
"""Benchmark one teacher update of se_mm and of other libraries.

    python tools/benchmark_update.py

For each network the contestants take turns, one update at a time. The table has the median time of
an update, its ratio to mmengine's average and to a single lerp over as many elements (the lower
bound for an average), and the memory that it allocates; on a GPU also the number of kernel launches
and whether the host waits. In the sweep over sizes, the CPU caches are flushed before each update.
timm and ema-pytorch are included if they are installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]  # Lets it run from a checkout.

import benchmarking as bench  # noqa: E402
from benchmarking import Update  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.hub import get_config  # noqa: E402
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.model import ExponentialMovingAverage  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402

from se_mm.engine.launch import run_tool  # noqa: E402
from se_mm.home import find_config  # noqa: E402
from se_mm.smoothing import GRANULARITIES, Settings, Smoother, keep_prob_schedule  # noqa: E402
from se_mm.smoothing.kernels import cpu, cuda  # noqa: E402
from se_mm.smoothing.options import check_count  # noqa: E402
from se_mm.smoothing.units import TensorPair, Units  # noqa: E402
from se_mm.smoothing.update import draw_picks  # noqa: E402

MOMENTUM = 0.01
MMENGINE = 'mmengine ExponentialMovingAverage'
LERP, COPY = 'one flat lerp', 'one flat copy'


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
        MMENGINE: lambda: update_of(ExponentialMovingAverage(student, MOMENTUM), student)
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


def update_of(averaged: nn.Module, student: nn.Module) -> Update:
    """Return the update of an averaged model with mmengine's or PyTorch's interface."""
    return lambda: averaged.update_parameters(student)


def cosine_ema(student: nn.Module) -> Update:
    """The average of mmpretrain."""
    from mmpretrain.models.utils import CosineEMA

    MessageHub.get_current_instance().update_info('max_iters', 10**6)
    return update_of(CosineEMA(student, momentum=MOMENTUM), student)


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
    return update_of(AveragedModel(student, multi_avg_fn=average), student)


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
    times = bench.medians(updates, args.updates, args.device, lambda: others.add_(1))

    on_gpu = args.device == 'cuda'
    columns = ['update', 'ms', 'to mmengine', 'to a flat lerp', 'allocates, of the teacher']
    columns += ['launches', 'host waits'] if on_gpu else []
    rows = []
    for contestant, update in updates.items():
        milliseconds = times[contestant]
        row = [contestant, f'{milliseconds:.2f}', f'{milliseconds / times[MMENGINE]:.2f}']
        row.append(f'{milliseconds / times[LERP]:.2f}' if LERP in times else '')
        row.append(f'{bench.allocated(update, args.device) / size:.1%}')
        if on_gpu:
            row += [f'{bench.profiled(update)[1]:g}', 'yes' if bench.waits(update) else 'no']
        rows.append(row)
    numbers = sum(p.numel() for p in student.parameters())
    tensors = len(list(student.parameters()))
    title = f'## {name}: {numbers / 1e6:.1f} million parameters in {tensors} tensors'
    bench.print_table(title, columns, rows)
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
    bench.set_up(args.device, args.threads)
    kernel = cuda.triton_kernel if args.device == 'cuda' else cpu.cpu_kernel
    print(
        f'{bench.machine(args.device)}, {args.threads} threads; {bench.versions()}, '
        f'{"with" if kernel else "without"} its kernel; keep_prob {args.keep_prob:g}, medians of '
        f'{args.updates}.'
    )
    per_number = {name: measure(name, args) for name in args.networks}
    small, large = (per_number.get(f'sweep_{millions}m') for millions in (SWEEP[0], SWEEP[-1]))
    if small and large:
        title = f'## Time per picked element: {SWEEP[-1]} million parameters relative to {SWEEP[0]}'
        ratios = [[name, f'{large[name] / small[name]:.2f}'] for name in small]
        bench.print_table(title, ['update', 'ratio'], ratios)


if __name__ == '__main__':
    run_tool(main, 'interrupted: only the tables above are complete.')
