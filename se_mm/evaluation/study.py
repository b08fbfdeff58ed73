# SPDX-License-Identifier: Apache-2.0
"""Define what a comparison trains: groups of cells with the same seeds.

A study is a file with ``configs`` and ``matrix``. Without a file, configs are compared as they are,
or with a matrix from the command line.
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
    """Cells that are compared with each other.

    Attributes:
        name: Name of their config; empty if each cell is a config of its own.
        cells: At least one.
        reference: Name of the cell that the others are compared to, besides their controls.
    """

    name: str
    cells: tuple[Cell, ...]
    reference: str


@dataclass(frozen=True)
class Study:
    """Everything that a comparison trains.

    Attributes:
        groups: At least one.
        seeds: Seeds of the runs of each cell, unique.
        metrics: Names of metrics of the final evaluation.
        cfg_options: Changes to every config, as dotted keys.
    """

    groups: tuple[Group, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    cfg_options: Mapping[str, Any]


def is_study(path: str) -> bool:
    """Return whether a file is a study, and not a training config."""
    return 'matrix' in _read(path) and 'model' not in _read(path)


def read_study(
    path: str,
    seeds: Optional[Sequence[int]],
    metrics: Optional[Sequence[str]],
    cfg_options: Mapping[str, Any],
) -> Study:
    """Read a study from a file.

    Args:
        path: Path of the file. It has ``configs``: a list of paths of training configs, relative to
            its folder, or a dict of name -> path; ``matrix``: a dict or a list of dicts, see
            :func:`~se_mm.evaluation.matrix.matrix_cells`; ``seeds``, ``metrics`` and
            ``cfg_options`` (dotted keys).
        seeds: Replace those of the file.
        metrics: Replace those of the file.
        cfg_options: Added to those of the file.

    Raises:
        OptionError: If an entry is invalid or missing.
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
    """Make a study.

    Args:
        configs: Name -> path of a training config.
        matrix: The matrix over each config. Empty: compare the configs as they are, to the first.
        seeds: Seeds of the runs.
        metrics: Names of metrics of the final evaluation, in the order of the report.
        cfg_options: Changes to every config, as dotted keys.

    Raises:
        OptionError: If an argument is invalid.
    """
    # Imported late to avoid a circular import.
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
    """Return the runs of a study: (name of the group, name of the cell) -> seed -> run.

    The config of each cell is written below the work dir, so that it can be read and trained alone.

    Args:
        study: The study.
        work_dir: Work dir of the comparison.
        train: Words of the training command before the config.
    """
    runs: dict[tuple[str, str], dict[int, Run]] = {}
    for group in study.groups:
        for cell in group.cells:
            folder = work_dir / group.name / cell.folder
            config = folder / 'config.py'
            folder.mkdir(parents=True, exist_ok=True)
            text = cell.config.pretty_text
            # Left untouched if unchanged, since a run may be using it.
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
    """Return the config options that set a seed: that of the run and of its label split or fold."""
    options = [f'randomness.seed={seed}']
    dataset = cfg.train_dataloader.dataset
    split = dataset.get('split')
    if isinstance(split, dict) and 'num_labels' in split:
        options.append(f'train_dataloader.dataset.split.seed={seed}')
    # For detection, each seed uses another fold.
    options += [
        f'train_dataloader.dataset.datasets.{index}.fold={seed + 1}'
        for index, part in enumerate(dataset.get('datasets', []))
        if 'fold' in part
    ]
    return options


def _read(path: str) -> Config:
    return Config.fromfile(path)


def _reference(cells: Sequence[Cell]) -> str:
    """Return the name of the first moving average among the cells, or of the first cell."""
    averages = [cell.name for cell in cells if cell.name.startswith('TMA')]
    return (averages or [cells[0].name])[0]
