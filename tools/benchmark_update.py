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
import logging
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
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
from se_mm.smoothing.units import Pair, Units  # noqa: E402
from se_mm.smoothing.update import draw_picks  # noqa: E402

MOMENTUM = 0.01
MMENGINE = 'mmengine ExponentialMovingAverage'
LERP, COPY = 'one flat lerp', 'one flat copy'
Update = Callable[[], object]


def byol_r50() -> nn.Module:
    """Backbone and neck of BYOL's ResNet-50."""
    model = build('mmpretrain', str(find_config('byol_se_r50_8xb256.py')))
    return nn.Sequential(model.backbone, model.neck)


def mocov3_vit_b() -> nn.Module:
    """Backbone and neck of MoCo v3's ViT-B/16."""
    name = 'mmpretrain::mocov3/mocov3_vit-base-p16_16xb256-amp-coslr-300e_in1k.py'
    model = build('mmpretrain', name)
    return nn.Sequential(model.backbone, model.neck)


def softteacher_r50() -> nn.Module:
    """The detector of Soft Teacher's Faster R-CNN with ResNet-50."""
    return build(
        'mmdet', str(find_config('softteacher_se_faster-rcnn-r50_8xb5_coco-10.py'))
    ).student


def sweep(millions: int) -> Callable[[], nn.Module]:
    """Return a factory of networks of square layers with a million parameters each."""

    def make() -> nn.Module:
        layers = [nn.Linear(1000, 1000, bias=False) for _ in range(millions)]
        return nn.Sequential(*layers)

    return make


SWEEP = (10, 100, 1000)
NETWORKS = {
    'byol_r50': byol_r50,
    'mocov3_vit-b': mocov3_vit_b,
    'softteacher_r50': softteacher_r50,
    **{f'sweep_{millions}m': sweep(millions) for millions in SWEEP},
}


def build(scope: str, config: str) -> nn.Module:
    """Build the model of a config, without pretrained weights."""
    cfg = get_config(config) if '::' in config else Config.fromfile(config)
    init_default_scope(scope)
    return MODELS.build(cfg.model)


def ours(
    student: nn.Module,
    teacher: nn.Module,
    keep_prob: float,
    momentum: float | None,
    granularity: str,
) -> Update:
    """Return a function that makes the next update of se_mm at each call."""
    settings = Settings(
        keep_prob=keep_prob,
        momentum=1.0 if momentum is None else momentum,
        granularity=granularity,
    )
    smoother = Smoother(teacher, settings)
    step = 0

    def update() -> None:
        nonlocal step
        step += 1
        smoother.update(student, step, 10**6, seed=0)

    return update


def flat(student: nn.Module, copies: bool) -> Update:
    """Return an update of one flat tensor with as many numbers as the student has parameters."""
    parameter = next(student.parameters())
    count = sum(p.numel() for p in student.parameters())
    teacher, new = torch.randn(2, count, device=parameter.device, dtype=parameter.dtype)
    return (lambda: teacher.copy_(new)) if copies else (lambda: teacher.lerp_(new, MOMENTUM))


def contestants(
    student: nn.Module, keep_prob: float, peers: bool
) -> dict[str, Callable[[], Update]]:
    """Return the contestants: name -> factory of its update. Those of se_mm share a teacher.

    Args:
        student: The network.
        keep_prob: The keep_prob of SE and STS.
        peers: Whether to include all contestants. False, to save memory: only mmengine's and some
            of se_mm's.
    """
    teacher = deepcopy(student).requires_grad_(False)
    made: dict[str, Callable[[], Update]] = {
        MMENGINE: lambda: moved_by(ExponentialMovingAverage(student, MOMENTUM), student)
    }
    if peers:
        made |= {
            LERP: lambda: flat(student, copies=False),
            COPY: lambda: flat(student, copies=True),
            'mmpretrain CosineEMA': lambda: cosine_ema(student),
            'mmdet MeanTeacherHook': lambda: mean_teacher(student),
            'torch AveragedModel, foreach': lambda: averaged_model(student),
            'timm ModelEmaV3': lambda: timm_ema(student),
            'ema-pytorch': lambda: ema_pytorch(student),
        }
    made['TMA (SETMAHook, keep_prob=0)'] = partial(ours, student, teacher, 0, MOMENTUM, 'tensor')
    for granularity in GRANULARITIES if peers else ('tensor', 'channel'):
        for name, momentum in (('SE', None), ('STS', MOMENTUM)):
            made[f'{name}, {granularity}'] = partial(
                ours, student, teacher, keep_prob, momentum, granularity
            )
    return made


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

    averaged = EMA(
        student, beta=1 - MOMENTUM, update_after_step=0, update_every=1, use_foreach=True
    )
    return averaged.update


def timed(update: Update, device: str) -> float:
    """Return the seconds of one update."""
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    update()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


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


def launches(update: Update) -> int:
    """Count the kernels and copies that an update launches on a GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        update()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


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
    parameters = [Pair(name, p, p) for name, p in student.named_parameters()]
    units = Units(parameters, granularity)
    count = sum(pair.teacher.numel() for pair in parameters)
    picked = 0
    for step in range(3, updates + 3):
        picks = draw_picks(units, 0, step, keep_prob)
        shares = (torch.as_tensor(pick).float().mean() for pick in picks)
        picked += sum(float(s) * p.teacher.numel() for s, p in zip(shares, parameters))
    return picked / updates / count


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Time all contestants on one network and print their table.

    Returns:
        For a sweep, name -> milliseconds per picked number of the SE and STS contestants; else
        empty.
    """
    student = NETWORKS[name]().to(args.device)
    size = sum(p.numel() * p.element_size() for p in student.parameters())
    updates: dict[str, Update] = {}
    missing = []
    for contestant, make in contestants(student, args.keep_prob, 'sweep' not in name).items():
        try:
            updates[contestant] = make()
        except ImportError:
            missing.append(contestant)
    for update in updates.values():  # The first update copies everything and compiles kernels.
        update(), update()
    times: dict[str, list[float]] = {contestant: [] for contestant in updates}
    # A small network would stay in the CPU caches, which training would overwrite between updates.
    others = torch.zeros(1 << 28 if 'sweep' in name and args.device == 'cpu' else 0)
    for _ in range(args.updates):
        for contestant, update in updates.items():
            others.add_(1)
            times[contestant].append(timed(update, args.device))
    medians = {contestant: 1e3 * statistics.median(some) for contestant, some in times.items()}

    count = sum(p.numel() for p in student.parameters())
    tensors = len(list(student.parameters()))
    print(f'\n## {name}: {count / 1e6:.1f} million parameters in {tensors} tensors\n')
    extra = ['launches', 'host waits'] if args.device == 'cuda' else []
    columns = ['update', 'ms', 'to mmengine', 'to a flat lerp', 'allocates, of the teacher', *extra]
    print(f'| {" | ".join(columns)} |\n|{"---|" * len(columns)}')
    for contestant, median in medians.items():
        update = updates[contestant]
        cells = [
            contestant,
            f'{median:.2f}',
            f'{median / medians[MMENGINE]:.2f}',
            f'{median / medians[LERP]:.2f}' if LERP in medians else '',
            f'{allocated(update, args.device) / size:.1%}',
        ]
        if args.device == 'cuda':
            cells += [str(launches(update)), 'yes' if waits(update) else 'no']
        print(f'| {" | ".join(cells)} |', flush=True)
    for contestant in missing:
        print(f'\n{contestant} is not installed.')
    if 'sweep' in name:
        return {
            contestant: medians[contestant]
            / (count * share_picked(student, contestant, args.keep_prob, args.updates))
            for contestant in medians
            if contestant.startswith(('SE,', 'STS,'))
        }
    return {}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS), help='default: all'
    )
    parser.add_argument('--keep-prob', type=float, default=0.7, help='for SE and STS')
    parser.add_argument('--updates', type=int, default=60, help='timed updates per contestant')
    parser.add_argument('--threads', type=int, default=2, help="PyTorch's threads on the CPU")
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    args = parse_args()
    if args.updates < 1:
        raise OptionError(f'--updates must be an integer >= 1, got {args.updates}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise OptionError('--device=cuda needs a GPU, and PyTorch finds none')
    keep_prob_schedule('--keep-prob', args.keep_prob)
    logging.disable(logging.WARNING)
    warnings.filterwarnings('ignore')
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    machine = torch.cuda.get_device_name() if args.device == 'cuda' else processor()
    kernel = cuda.triton_kernel if args.device == 'cuda' else cpu.cpu_kernel
    print(
        f'{machine}, {args.threads} threads; Python {platform.python_version()}, torch '
        f'{torch.__version__}, se_mm {se_mm.__version__}, {"with" if kernel else "without"} its '
        f'kernel; keep_prob {args.keep_prob:g}, medians of {args.updates}.'
    )
    per_number = {name: measure(name, args) for name in args.networks}
    small, large = (per_number.get(f'sweep_{millions}m') for millions in (SWEEP[0], SWEEP[-1]))
    if small and large:
        print(
            f'\n## Time per picked element: {SWEEP[-1]} million parameters relative to {SWEEP[0]}\n'
        )
        print('| update | ratio |\n|---|---|')
        for contestant in small:
            print(f'| {contestant} | {large[contestant] / small[contestant]:.2f} |')


if __name__ == '__main__':
    run_tool(main, 'interrupted: only the tables above are complete.')
