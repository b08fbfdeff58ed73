# SPDX-License-Identifier: Apache-2.0
"""Check that se_mm is correct and fast on this machine's GPU, in at most 8 minutes.

    python tools/check_gpu.py

It has four parts: comparisons of the kernel with PyTorch operations on the CPU, over granularities,
dtypes and layouts; time, bandwidth, launches and waits of one update, and of other libraries'
updates; the speed of batched views; and iterations of BYOL and FixMatch, also with the stock
teacher. Problems are listed at the end, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]  # Lets it run from a checkout.

import benchmark_iteration  # noqa: E402
import benchmarking as bench  # noqa: E402
from benchmark_update import COPY, NETWORKS, contestants  # noqa: E402
from mmengine.config import Config  # noqa: E402

from se_mm.engine.launch import run_tool  # noqa: E402
from se_mm.models.batch_views import BatchViews  # noqa: E402
from se_mm.smoothing import GRANULARITIES  # noqa: E402
from se_mm.smoothing.kernels import PlainKernel, choose  # noqa: E402
from se_mm.smoothing.units import TensorPair, Units  # noqa: E402
from se_mm.smoothing.update import draw_picks, update  # noqa: E402

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ('contiguous', 'channels_last', 'offset', 'transposed')
SHAPES = (
    (5001,),
    (3, 2049),
    (70, 33),
    (64, 32, 3, 3),
    (16, 8, 1, 1),
    (),
    (4, 3, 5, 6, 7),
    (300_001,),
)
KEEP_PROB = 0.7


class Check:
    """Runs the parts, and collects the problems.

    Args:
        device: ``'cuda'`` or ``'cpu'``.
        smoke: Use tiny sizes, only to check that it runs.
    """

    def __init__(self, device: str, smoke: bool) -> None:
        self.device = device
        self.smoke = smoke
        self.wrong: list[str] = []

    def machine(self) -> None:
        """Print the machine and the versions."""
        print(
            f'# {bench.machine(self.device)}\n\n{bench.versions()}, CUDA {torch.version.cuda}, '
            f'Triton {_triton()}'
        )

    def kernel(self) -> None:
        """Compare the kernel with PyTorch on the CPU, 10 seconds for each granularity."""
        rows = []
        for granularity in GRANULARITIES:
            generator = random.Random(granularity)
            cases = tensors = fast = wrong = 0
            end = time.monotonic() + (1 if self.smoke else 10)
            while time.monotonic() < end:
                made, expected, picks, average = self._case(generator, granularity)
                fast += sum(
                    not isinstance(kernel, PlainKernel) and len(kernel._teachers)  # type: ignore[attr-defined]
                    for kernel in choose(made, granularity)
                )
                for one, other, pick in zip(made, expected, picks):
                    wrong += not _alike(one.teacher, other, pick, average)
                cases, tensors = cases + 1, tensors + len(made)
            rows.append([granularity, *map(str, (cases, tensors, fast, wrong))])
            if wrong:
                self.wrong.append(f'{wrong} tensors are wrong for {granularity} units')
        columns = ['granularity', 'cases', 'tensors', 'by a kernel', 'wrong']
        bench.print_table('## The kernel against PyTorch operations', columns, rows)

    def _case(self, generator: random.Random, granularity: str) -> Any:
        """Update random tensors on the device, and copies of them on the CPU."""
        teacher_dtype, student_dtype = generator.choices(FLOATS, k=2)
        average = generator.choice([None, 0.01, 0.8])
        layout = generator.choice(LAYOUTS)
        seed, step = generator.randrange(2**40), generator.randrange(10**6)
        keep_prob = generator.choice([0.0, 0.3, 0.7, 0.99])
        plain, made = [], []
        for index, shape in enumerate(generator.sample(SHAPES, 6)):
            old, new = torch.randn(shape).to(teacher_dtype), torch.randn(shape).to(student_dtype)
            name = f'block{index // 2}.p{index}'
            plain.append(TensorPair(name, old.clone(), new))
            made.append(
                TensorPair(name, *(_laid_out(t.to(self.device), layout) for t in (old, new)))
            )
        before = [pair.teacher.clone() for pair in plain]
        picks = draw_picks(Units(plain, granularity), seed, step, keep_prob)
        update(plain, picks, average)
        for kernel in choose(made, granularity):
            kernel.update(seed, step, keep_prob, average)
        expected = [(pair.teacher, old, pair.student) for pair, old in zip(plain, before)]
        return made, expected, picks, average

    def updates(self) -> None:
        """Time one update of ResNet-50's BYOL by se_mm and by other libraries."""
        student = torch.nn.Conv2d(8, 8, 3) if self.smoke else NETWORKS['byol_r50']()
        student.to(self.device)
        size = sum(p.numel() * p.element_size() for p in student.parameters())
        updates, missing = contestants(student, KEEP_PROB, peers=True)
        times = bench.medians(updates, 5 if self.smoke else 30, self.device)
        costs = {name: self._cost(one, times[name]) for name, one in updates.items()}
        bandwidth = 2 * size / costs[COPY]['device ms']
        for name, cost in costs.items():
            copies = name.startswith('SE,') or name == COPY
            picked = name.startswith(('SE,', 'STS,')) and 'element' not in name
            # Updates of single elements touch all memory.
            needed = (2 if copies else 3) * size * (1 - KEEP_PROB if picked else 1)
            cost['of bandwidth'] = needed / cost['device ms'] / bandwidth
            if name.startswith(('SE,', 'STS,', 'TMA')) and self.device == 'cuda':
                self._expect(name, cost, costs['mmpretrain CosineEMA'])
        columns = ['ms', 'device ms', 'of bandwidth', 'launches', 'waits', 'allocated MiB']
        rows = [[name, *(f'{cost[key]:.3g}' for key in columns)] for name, cost in costs.items()]
        title = '## One update of a ResNet-50 with its neck'
        bench.print_table(title, ['update', *columns], rows)
        for name in missing:
            print(f'{name} is not installed.')

    def _expect(self, name: str, row: dict[str, float], cosine: dict[str, float]) -> None:
        """Add what is slower than expected to the problems."""
        for bad, said in (
            (row['of bandwidth'] < 0.5, f'reaches {row["of bandwidth"]:.0%} of the copy bandwidth'),
            (row['launches'] > 4, f'makes {row["launches"]:g} launches'),
            (row['waits'], 'waits for the device'),
            (
                10 * row['ms'] > cosine['ms'],
                f'takes {row["ms"]:.3g} ms, CosineEMA {cosine["ms"]:.3g}',
            ),
        ):
            if bad:
                self.wrong.append(f'{name} {said}')

    def _cost(self, one: bench.Update, milliseconds: float) -> dict[str, float]:
        """Measure one contestant."""
        if self.device == 'cpu':
            zeros = dict.fromkeys(('launches', 'waits', 'allocated MiB'), 0.0)
            return {'ms': milliseconds, 'device ms': milliseconds, **zeros}
        on_device, launches = bench.profiled(one)
        return {
            'ms': milliseconds,
            'device ms': on_device,
            'launches': launches,
            'waits': bench.waits(one),
            'allocated MiB': bench.allocated(one, self.device) / 2**20,
        }

    def iterations(self) -> None:
        """Time iterations of BYOL and FixMatch, also with the stock teacher."""
        byol = dict(method='byol', batch_size=256, size=224, iters=6)
        fixmatch = dict(method='fixmatch', batch_size=64, size=32, iters=30)
        for options in (byol, fixmatch):
            if self.smoke:
                options.update(batch_size=2, size=32, iters=1)
            for fast in (False,) if self.smoke else (False, True):
                print(f'\n## An iteration of {options["method"]}\n')
                args = argparse.Namespace(
                    **options,
                    turns=1,
                    warm_up=1 if self.smoke else 12,
                    threads=torch.get_num_threads(),
                    amp=self.device == 'cuda' and (fast or options is byol),
                    channels_last=fast,
                    cudnn_benchmark=fast,
                )
                benchmark_iteration.measure(args)

    def views(self) -> None:
        """Time the views of FixMatch on the device."""
        path = ROOT / 'configs/fixmatch/fixmatch_sts_wrn28-2_1xb64-amp_cifar10-40.py'
        options = Config.fromfile(path).model.data_preprocessor
        images = torch.randint(
            0, 256, (28 if self.smoke else 448, 3, 32, 32), dtype=torch.uint8, device=self.device
        )
        views = {
            str(groups): partial(BatchViews(options.views, groups), images)
            for groups in (8, options.groups, 128)
        }
        times = bench.medians(views, 5, self.device)
        rows = [[groups, f'{1e3 * len(images) / time_:.0f}'] for groups, time_ in times.items()]
        title = '## Views of 32 x 32 pixels on the device'
        bench.print_table(title, ['groups', 'images per second'], rows)

    def guarded(self, part: Callable[[], None]) -> None:
        """Run a part; an error is one more problem."""
        begin = time.monotonic()
        try:
            part()
        except Exception as error:
            traceback.print_exc()
            self.wrong.append(f'{part.__name__} ended with {type(error).__name__}: {error}')
        print(f'\n({part.__name__}: {time.monotonic() - begin:.0f} s)', flush=True)


def _laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == 'offset':
        flat = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
        return flat[1:].view(tensor.shape).copy_(tensor)
    if layout == 'channels_last' and tensor.dim() in (4, 5):
        last = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
        return tensor.contiguous(memory_format=last)
    if layout == 'transposed' and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    return tensor


def _alike(found: torch.Tensor, wanted: Any, pick: Any, average: float | None) -> bool:
    """Whether a tensor equals the expected one: bitwise where it is copied or kept."""
    expected, old, new = wanted
    got = found.cpu()
    if average is None:
        return torch.equal(got, expected)
    kept = ~torch.as_tensor(pick).expand(old.shape)
    limit = 2 * torch.finfo(old.dtype).eps * torch.maximum(old.abs(), new.to(old).abs()).double()
    near = (got.double() - expected.double()).abs() <= limit
    return bool(near.all()) and torch.equal(got[kept], old[kept])


def _triton() -> str:
    try:
        import triton
    except ImportError:
        return 'is missing'
    return str(triton.__version__)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda')
    parser.add_argument(
        '--smoke', action='store_true', help='use tiny sizes, only to check that it runs'
    )
    return parser.parse_args()


def main() -> None:
    """Run all parts."""
    args = parse_args()
    bench.set_up(args.device)
    check = Check(args.device, args.smoke)
    for part in (check.machine, check.kernel, check.updates, check.views, check.iterations):
        check.guarded(part)
    if check.wrong:
        print('\n## Wrong or slow\n\n' + '\n'.join(f'- {line}' for line in check.wrong))
        sys.exit(1)
    print('\nAll results are correct and as fast as expected.')


if __name__ == '__main__':
    run_tool(main, 'interrupted: the tables above are complete.')
