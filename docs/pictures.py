# SPDX-License-Identifier: Apache-2.0
"""Draw the pictures of the documentation.

``python docs/pictures.py`` writes them to ``docs/pictures``; ``--out`` and ``--format`` change the
folder and the format. No picture is a sketch: the data come from updates of a small network by
``se_mm.smoothing``, from ``se_mm.history``, or from the measurements in ``docs/performance.md`` and
``docs/results``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy import stats
from torchvision.models import resnet18

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # Works from a checkout, too.

from se_mm.history import picture as teacher_picture  # noqa: E402
from se_mm.history.provenance import provenance  # noqa: E402
from se_mm.history.segments import Segment, SmoothedTensors  # noqa: E402
from se_mm.smoothing import GRANULARITIES, Settings, SpatialEnsemble  # noqa: E402
from se_mm.smoothing.units import TensorPair, Units  # noqa: E402
from se_mm.smoothing.update import draw_picks  # noqa: E402

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, VERMILION = '#0072B2', '#E69F00', '#009E73', '#D55E00'
SEED = 0


class Numbers(nn.Module):
    """A network with a single vector."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count), requires_grad=False)


def follow(
    student: nn.Module,
    values: list[float],
    keep_prob: float,
    momentum: float,
    granularity: str,
) -> list[list[Tensor]]:
    """Let every number of a student have one value at each update, and record the teacher.

    Args:
        student: Any network.
        values: The student's numbers at each update; the first update copies them.
        keep_prob: Of the teacher.
        momentum: Of the teacher; 1 for SE.
        granularity: Of the teacher.

    Returns:
        The teacher's tensors after each update.
    """
    teacher = SpatialEnsemble(student, keep_prob, momentum, granularity=granularity, seed=SEED)
    history = []
    for value in values:
        for parameter in student.parameters():
            parameter.data.fill_(value)
        teacher.update(student)
        history.append([parameter.detach().clone() for parameter in teacher.parameters()])
    return history


def bare(axes: Axes) -> None:
    """Remove the upper and the right spine."""
    axes.spines[['top', 'right']].set_visible(False)


def draw_history() -> Figure:
    """The update that the units of a teacher come from, under each smoothing."""
    updates, layers = 60, 12
    smoothings = {
        'TMA: momentum 0.1': (0.0, 0.1),
        'SE: keep_prob 0.9': (0.9, 1.0),
        'STS: keep_prob 0.7, momentum 1/3': (0.7, 1 / 3),
    }
    figure, rows = plt.subplots(3, 1, figsize=(7.2, 6.6), sharex=True, layout='constrained')
    for axes, (title, (keep_prob, momentum)) in zip(rows, smoothings.items()):
        student = nn.Sequential(*[nn.Linear(2, 2) for _ in range(layers)])
        # The student's weights equal the number of the update, so the teacher's show their origin.
        values = [float(step) for step in range(updates + 1)]
        history = follow(student, values, keep_prob, momentum, 'tensor')
        held = torch.stack(
            [torch.stack([tensor.mean() for tensor in tensors]) for tensors in history], dim=1
        )
        image = axes.imshow(
            held, aspect='auto', cmap='viridis', vmin=0, vmax=updates, interpolation='nearest'
        )
        axes.set_title(title, loc='left', fontsize=10)
        axes.set_ylabel(f'unit (one of {2 * layers} tensors)', fontsize=9)
        axes.set_yticks([0, 11, 23], ['1', '12', '24'])
    rows[-1].set_xlabel('update')
    bar = figure.colorbar(image, ax=rows, shrink=0.6, aspect=30)
    bar.set_label('update of the student that the unit holds (of an average: the mean)')
    return figure


def draw_ages() -> Figure:
    """The ages of units under SE, with their geometric distribution."""
    updates, count = 400, 400_000
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout='constrained')
    for keep_prob, colour, marker in ((0.5, VERMILION, 's'), (0.7, BLUE, 'o'), (0.9, GREEN, '^')):
        values = [float(step) for step in range(updates + 1)]
        ((weight,),) = follow(Numbers(count), values, keep_prob, 1.0, 'element')[-1:]
        ages = updates - weight.long()
        shown = range(31)
        shares = torch.bincount(ages, minlength=31)[:31] / count
        expected = [(1 - keep_prob) * keep_prob**age for age in shown]
        axes.plot(shown, expected, color=colour, linewidth=1.2)
        seen = [age for age in shown if shares[age] > 0]
        axes.plot(
            seen,
            [float(shares[age]) for age in seen],
            linestyle='none',
            marker=marker,
            markersize=4.5,
            markerfacecolor='white',
            color=colour,
            label=f'keep_prob {keep_prob}: mean age {ages.double().mean():.2f}, '
            f'expected {keep_prob / (1 - keep_prob):.2f}',
        )
    axes.set_yscale('log')
    axes.set_ylim(1e-5, 1)
    axes.set_xlabel('age of a unit (updates since it was last picked)')
    axes.set_ylabel('share of the units')
    title = 'points: measured; lines: expected, (1 - p) p^age'
    axes.legend(frameon=False, fontsize=9, title=title, title_fontsize=9, alignment='left')
    bare(axes)
    return figure


def draw_mean() -> Figure:
    """The mean of many SE teachers beside TMA, of a student on a random walk."""
    updates, count, keep_prob = 300, 1000, 0.95
    steps = torch.randn(updates, generator=torch.Generator().manual_seed(SEED))
    walk = steps.cumsum(0).tolist()
    # Each number is a teacher of its own, of the same student.
    history = follow(Numbers(count), walk, keep_prob, 1.0, 'element')
    several = torch.stack([tensors[0] for tensors in history])
    (average,) = zip(*follow(Numbers(1), walk, 0.0, 1 - keep_prob, 'tensor'))
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout='constrained')
    axes.plot(walk, color='0.75', linewidth=0.8, label='student')
    axes.plot(several[:, 0], color=ORANGE, linewidth=1, drawstyle='steps-post', label='one SE unit')
    axes.plot(torch.cat(average), color=BLUE, linewidth=3, alpha=0.55, label='TMA, momentum 0.05')
    axes.plot(
        several.mean(1),
        color='black',
        linewidth=1,
        linestyle='--',
        label=f'mean of {count:,} SE units, keep_prob 0.95',
    )
    axes.set_xlabel('update')
    axes.set_ylabel('value of one weight')
    axes.legend(frameon=False, fontsize=9)
    bare(axes)
    return figure


def draw_granularity() -> Figure:
    """The units picked at one update, by granularity."""
    names = {
        'tensor': "'tensor'\nweight and bias apart",
        'layer': "'layer'\nweight with bias",
        'channel': "'channel'\na row with its bias",
        'element': "'element'\neach number",
    }
    torch.manual_seed(SEED)
    network = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)]).requires_grad_(False)
    pairs = [TensorPair(name, tensor, tensor) for name, tensor in network.named_parameters()]
    figure, grid = plt.subplots(
        2, 4, figsize=(7.2, 3.7), layout='constrained', sharex=True, sharey=True
    )
    # At this update no granularity picks all or nothing of these two layers.
    step, shown = 22, 2
    for column, granularity in enumerate(GRANULARITIES):
        picks = draw_picks(Units(pairs, granularity), SEED, step, keep_prob=0.5)
        full = [
            torch.as_tensor(pick).expand(pair.teacher.shape) for pair, pick in zip(pairs, picks)
        ]
        for layer in range(shown):
            weight, bias = full[2 * layer], full[2 * layer + 1]
            axes = grid[layer, column]
            # A column between them shows that the bias is another tensor.
            cells = torch.full((8, 10), float('nan'))
            cells[:, :8] = weight.float()
            cells[:, 9] = bias.float()
            axes.pcolormesh(
                cells,
                cmap=ListedColormap(['#D9D9D9', BLUE]),
                vmin=0,
                vmax=1,
                edgecolors='white',
                linewidth=1.2,
            )
            if layer == column == 0:  # The axes are shared.
                axes.invert_yaxis()
            axes.set_aspect('equal')
            axes.set_xticks([4, 9.5], ['weight', 'bias'], fontsize=9)
            axes.set_yticks([])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            if layer == 0:
                axes.set_title(names[granularity], fontsize=10)
            if column == 0:
                axes.set_ylabel(f'layer {layer + 1}\n(8 outputs)', fontsize=9)
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=colour, label=label)
        for colour, label in ((BLUE, 'follows the student'), ('#D9D9D9', 'is kept'))
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=2, frameon=False, fontsize=9)
    return figure


def draw_teacher() -> Figure:
    """The plot of tools/teacher_history.py: a ResNet-18 under STS, from its shapes alone."""
    updates = 3000
    with torch.device('meta'):
        network = resnet18()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    rule = Settings(keep_prob=0.7, momentum=0.01, granularity='channel').default
    segment = Segment(
        0, known=True, seed=SEED, total=updates, rules=(SmoothedTensors(rule, shapes),)
    )
    title = f'ResNet-18, {rule}, after {updates:,} updates'
    return teacher_picture.draw_history(provenance([segment], updates), title)


def table_of(title: str) -> dict[str, list[str]]:
    """Rows of the table below a line of docs/performance.md, by their first cell."""
    page = (HERE / 'performance.md').read_text()
    table = page.split(title, 1)[1].split('\n|---', 1)[1].split('\n\n', 1)[0]
    rows = [
        [cell.strip() for cell in line.strip('| ').split('|')] for line in table.split('\n')[1:]
    ]
    return {name: cells for name, *cells in rows}


def draw_speed() -> Figure:
    """The time of one update on two processor cores and on a GPU, by docs/performance.md."""
    shown = {
        'mmpretrain CosineEMA': 'mmpretrain CosineEMA',
        'mmengine ExponentialMovingAverage': 'mmengine EMA',
        'torch AveragedModel, foreach': 'torch AveragedModel',
        'timm ModelEmaV3': 'timm ModelEmaV3',
        'TMA (SETMAHook, keep_prob=0)': 'se_mm TMA',
        'STS, tensor': 'se_mm STS',
        'SE, tensor': 'se_mm SE',
    }
    machines = {'two cores of a Xeon': '### byol_r50', 'one H200': '**One update** of BYOL'}
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 2.8), sharey=True, layout='constrained')
    for axes, (machine, title) in zip(panels, machines.items()):
        table = table_of(title)
        times = [float(table[name][0]) for name in shown]
        ours = [label.startswith('se_mm') for label in shown.values()]
        bars = axes.barh(
            range(len(shown)), times, color=[BLUE if own else '0.75' for own in ours], height=0.72
        )
        axes.bar_label(bars, labels=[f'{time:.3g}' for time in times], padding=3, fontsize=9)
        axes.set_yticks(range(len(shown)), shown.values())
        axes.set_xlim(0, max(times) * 1.12)
        axes.set_title(machine, fontsize=10)
        axes.set_xlabel('ms an update of 33 million parameters', fontsize=9)
        bare(axes)
    panels[0].invert_yaxis()
    return figure


def draw_evidence() -> Figure:
    """The lead of teachers over their student on CIFAR-10, by their batch-norm statistics."""
    seeds = list(json.loads((HERE / 'results/cifar10_shadows.json').read_text())['seeds'].values())
    kinds = {'TMA': 'tma', 'STS': 'sts-tensor', 'SE': 'se-tensor'}
    statistics = {
        "the student's\n('copy')": 'copy',
        "averaged\n('average')": 'average',
        "recomputed\n('recalibrate')": 'recalibrate',
    }
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout='constrained')
    axes.axhline(0, color='0.4', linewidth=1)
    axes.text(0.5, 0.4, 'the student', fontsize=8, color='0.3', ha='center')
    colours = (BLUE, GREEN, ORANGE)
    for shift, colour, (label, kind) in zip((-0.2, 0, 0.2), colours, kinds.items()):
        leads = [
            torch.tensor([seed[f'{kind}-300-{name}'] - seed['student'] for seed in seeds])
            for name in statistics.values()
        ]
        means = [float(lead.mean()) for lead in leads]
        spread = stats.t.ppf(0.975, len(seeds) - 1) / len(seeds) ** 0.5
        axes.errorbar(
            [place + shift for place in range(3)],
            means,
            [spread * float(lead.std()) for lead in leads],
            fmt='o',
            capsize=3,
            color=colour,
            label=label,
        )
    axes.set_xticks(range(3), statistics)
    axes.set_xlabel("the teacher's batch-norm statistics")
    axes.set_ylabel('teacher less student, top-1 (points)')
    axes.legend(frameon=False, fontsize=9, loc='lower right')
    bare(axes)
    return figure


PICTURES = {
    'speed': draw_speed,
    'evidence': draw_evidence,
    'teacher_history': draw_teacher,
    'history': draw_history,
    'ages': draw_ages,
    'mean': draw_mean,
    'granularity': draw_granularity,
}


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description='Draw the pictures of the documentation.')
    parser.add_argument('--out', type=Path, default=HERE / 'pictures')
    parser.add_argument('--format', choices=['svg', 'png'], default='svg')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # The same picture is then the same file.
    plt.rcParams.update({'svg.hashsalt': 'se_mm', 'font.size': 10})
    for name, draw in PICTURES.items():
        figure = draw()
        metadata = {'Date': None} if args.format == 'svg' else None
        figure.savefig(args.out / f'{name}.{args.format}', dpi=150, metadata=metadata)
        plt.close(figure)


if __name__ == '__main__':
    main()
