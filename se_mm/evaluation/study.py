# SPDX-License-Identifier: Apache-2.0
"""What a comparison trains: groups of cells, over the same seeds.

A study is a file with ``configs`` and ``matrix``; without one, configs are compared as they are, or
a matrix from the command line is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

from se_mm.evaluation.matrix import Cell, matrix_cells, plain_cell, with_controls
from se_mm.evaluation.runs import Run
from se_mm.smoothing.options import OptionError, check_count, check_keys

KEYS = ('configs', 'matrix', 'seeds', 'metrics', 'cfg_options')
"""Keys of a study."""


@dataclass(frozen=True)
class Group:
    """Cells that are compared to one another.

    Attributes:
        name: Name of the config that they are of; empty where they are configs of their own.
        cells: At least one.
        reference: Name of the cell that the others are compared to, beside their controls.
    """

    name: str
    cells: tuple[Cell, ...]
    reference: str


@dataclass(frozen=True)
class Study:
    """What a comparison trains.

    Attributes:
        groups: At least one.
        seeds: Of the runs of each cell, each once.
        metrics: Names of metrics at the end of a run.
        cfg_options: Changes to every config, as dotted keys.
    """

    groups: tuple[Group, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    cfg_options: Mapping[str, Any]


def is_study(path: str) -> bool:
    """Whether a file is a study, and not the config of a training."""
    return 'matrix' in _read(path) and 'model' not in _read(path)


def read_study(
    path: str,
    seeds: Optional[Sequence[int]],
    metrics: Optional[Sequence[str]],
    cfg_options: Mapping[str, Any],
) -> Study:
    """The study in a file.

    Args:
        path: Its path. It has ``configs``: paths, from its folder, of configs of trainings, or a
            dict of a name for each; ``matrix``: a dict or a list of dicts, as of
            :func:`~se_mm.evaluation.matrix.matrix_cells`; ``seeds``, ``metrics`` and
            ``cfg_options`` (dotted keys).
        seeds: Instead of the file's.
        metrics: Instead of the file's.
        cfg_options: In addition to the file's.

    Raises:
        OptionError: If something in it is wrong or lacking.
    """
    study = _read(path)
    check_keys(path, study, KEYS)
    found = {'seeds': seeds or study.get('seeds'), 'metrics': metrics or study.get('metrics')}
    for key in ('configs', 'matrix', 'seeds', 'metrics'):
        if not found.get(key, study.get(key)):
            raise OptionError(f'{path} must set {key}')
    configs = study['configs']
    if isinstance(configs, str):
        configs = [configs]
    if not isinstance(configs, Mapping):
        configs = {Path(config).stem: config for config in configs}
    paths = {name: str(Path(path).parent / config) for name, config in configs.items()}
    matrix = study['matrix']
    options = {**study.get('cfg_options', {}), **cfg_options}
    return make_study(
        paths,
        [matrix] if isinstance(matrix, Mapping) else matrix,
        found['seeds'],
        found['metrics'],
        options,
    )


def make_study(
    configs: Mapping[str, str],
    matrix: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    metrics: Sequence[str],
    cfg_options: Mapping[str, Any],
) -> Study:
    """A study.

    Args:
        configs: Name -> path of a config of a training.
        matrix: What is made of each; empty: the configs are compared as they are, to the first.
        seeds: Of the runs.
        metrics: Names of metrics at the end of a run; the first is the one that is drawn first.
        cfg_options: Changes to every config, as dotted keys.

    Raises:
        OptionError: If something in them is wrong.
    """
    # Imported late: it imports from here what the command line tools share.
    from se_mm.engine.launch import config_file

    for seed in seeds:
        check_count('seeds', seed)
    if len(set(seeds)) < len(seeds):
        raise OptionError(f'seeds must be unique, got {list(seeds)!r}')
    if isinstance(metrics, str):
        metrics = [metrics]
    cfgs = {}
    for name, path in configs.items():
        cfg = Config.fromfile(config_file(path))
        cfg.merge_from_dict(dict(cfg_options))
        cfgs[name] = cfg
    if matrix:
        groups = [
            Group(name, tuple(cells), _reference(cells))
            for name, cfg in cfgs.items()
            for cells in [matrix_cells(cfg, matrix)]
        ]
    else:
        cells = [plain_cell(name, cfg) for name, cfg in cfgs.items()]
        groups = [Group('', tuple(with_controls(cells)), cells[0].name)]
    return Study(tuple(groups), tuple(seeds), tuple(metrics), dict(cfg_options))


def runs_of(
    study: Study, work_dir: Path, train: Sequence[str]
) -> dict[tuple[str, str], dict[int, Run]]:
    """The runs of a study: (name of the group, name of the cell) -> seed -> its run.

    The config of each cell is written below the work dir, where a user may look at it and train it.

    Args:
        study: The study.
        work_dir: Where it is trained.
        train: The words of a command that trains a config, up to it.
    """
    runs: dict[tuple[str, str], dict[int, Run]] = {}
    for group in study.groups:
        for cell in group.cells:
            folder = work_dir / group.name / cell.folder
            config = folder / 'config.py'
            folder.mkdir(parents=True, exist_ok=True)
            text = cell.config.pretty_text
            # Not touched where it is the same: a run of it may be going on.
            if not config.exists() or config.read_text() != text:
                config.write_text(text)
            loop = cell.config.train_cfg
            iters = loop.get('max_iters') or loop.get('max_epochs') or 1
            label = f'{group.name}: {cell.name}' if group.name else cell.name
            runs[group.name, cell.name] = {}
            for seed in study.seeds:
                place = folder / f'seed{seed}'
                options = seed_options(cell.config, seed)
                command = [*train, str(config), '--work-dir', str(place), '--cfg-options', *options]
                runs[group.name, cell.name][seed] = Run(
                    f'{label}, seed {seed}', place, command, iters, [text, *options]
                )
    return runs


def seed_options(cfg: Config, seed: int) -> list[str]:
    """The settings that make a run one of a seed: of the run, and of which images are labelled."""
    options = [f'randomness.seed={seed}']
    dataset = cfg.train_dataloader.dataset
    split = dataset.get('split')
    if isinstance(split, dict) and 'num_labels' in split:
        options.append(f'train_dataloader.dataset.split.seed={seed}')
    # Of detection sets, each seed has a fold.
    options += [
        f'train_dataloader.dataset.datasets.{index}.fold={seed + 1}'
        for index, part in enumerate(dataset.get('datasets', []))
        if 'fold' in part
    ]
    return options


def _read(path: str) -> Config:
    return Config.fromfile(path)


def _reference(cells: Sequence[Cell]) -> str:
    """The first average among cells of a matrix, or the first of them."""
    averages = [cell.name for cell in cells if cell.name.startswith('TMA')]
    return (averages or [cells[0].name])[0]
