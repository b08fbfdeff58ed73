# SPDX-License-Identifier: Apache-2.0
"""Define what a comparison trains: groups of cells with the same seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

from se_mm.checkpoints.write import whole_file
from se_mm.engine.launch import config_file
from se_mm.smoothing.options import OptionError, check_keys
from se_mm.studies.matrix import Cell, matrix_cells, plain_cell, with_controls
from se_mm.studies.runs import Run
from se_mm.studies.shadows import in_one_run, shadow_cells, shadows_of


@dataclass(frozen=True)
class Study:
    """Everything that a comparison trains."""

    # Name of a config -> cells that are compared with each other. Without a matrix there is one
    # group of no name, whose cells are the configs.
    groups: Mapping[str, Sequence[Cell]]
    seeds: Sequence[int]
    metrics: Sequence[str]  # Of the final evaluation.

    def reference(self, group: str) -> str:
        """Return the cell that the others are compared to: the first TMA, or the first config."""
        names = [cell.name for cell in self.groups[group]]
        return [*(name for name in names if group and name.startswith('TMA')), names[0]][0]


def read_study(path: str) -> Optional[dict[str, Any]]:
    """Read the options of :func:`make_study` from a file; None if it is a training config."""
    study = Config.fromfile(path).to_dict()
    if 'matrix' not in study or 'model' in study:
        return None
    check_keys(path, study, ('configs', 'matrix', 'seeds', 'metrics', 'cfg_options'))
    configs = study.get('configs', {}).items()
    return {**study, 'configs': {name: str(Path(path).parent / cfg) for name, cfg in configs}}


def make_study(study: Mapping[str, Any]) -> Study:
    """Make a study, or raise OptionError if an option is invalid or missing.

    Its options are ``configs``: name -> path of a training config; ``matrix`` over each config, see
    :func:`~se_mm.studies.matrix.matrix_cells`, or empty to compare the configs as they are;
    ``seeds``; ``metrics`` of the final evaluation; ``cfg_options``: changes to every config, as
    dotted keys.
    """
    for key in ('configs', 'seeds', 'metrics'):
        if not study.get(key):
            raise OptionError(f'a study must set {key}')
    cfgs = {name: Config.fromfile(config_file(path)) for name, path in study['configs'].items()}
    for cfg in cfgs.values():
        cfg.merge_from_dict(study.get('cfg_options', {}))
    shadowed = [bool(shadows_of(cfg)) for cfg in cfgs.values()]
    if matrix := study['matrix']:
        groups = {name: in_one_run(matrix_cells(cfg, matrix)) for name, cfg in cfgs.items()}
    elif all(shadowed):
        groups = {name: shadow_cells(cfg) for name, cfg in cfgs.items()}
    elif any(shadowed):
        raise OptionError('configs must all have a ShadowsHook, or none of them')
    else:
        groups = {'': with_controls(plain_cell(name, cfg) for name, cfg in cfgs.items())}
    return Study(groups, list(dict.fromkeys(study['seeds'])), study['metrics'])


def runs_of(study: Study, work_dir: Path, train: Sequence[str]) -> dict[tuple[str, str, int], Run]:
    """Return the runs of a study: (name of the group, name of the cell, seed) -> run.

    The config of each cell is written below the work dir, so that it can be read and trained alone.
    Teachers of one student share a run. ``train`` has the words of the training command before the
    config.
    """
    runs: dict[tuple[str, str, int], Run] = {}
    by_folder: dict[Path, Run] = {}
    cells = [(group, cell) for group, cells in study.groups.items() for cell in cells]
    for seed in study.seeds:  # Seed by seed, so that an interrupted study has complete seeds.
        for group, cell in cells:
            config = work_dir / group / cell.folder / 'config.py'
            if not config.exists():
                with whole_file(None, config) as file:
                    file.write_text(cell.config.pretty_text)
            folder = config.parent / f'seed{seed}'
            words = [*train, str(config), '--work-dir', str(folder), '--cfg-options']
            words += [f'{key}={value}' for key, value in seed_options(cell.config, seed).items()]
            length = cell.config.train_cfg.get('max_iters') or cell.config.train_cfg.max_epochs
            run = Run(f'{group} {cell.training}, seed {seed}'.strip(), folder, words, length)
            runs[group, cell.name, seed] = by_folder.setdefault(folder, run)
    return runs


def seed_options(cfg: Config, seed: int) -> dict[str, Any]:
    """Return the config options that set a seed: that of the run and of its label split or fold."""
    options: dict[str, Any] = {'randomness.seed': seed}
    dataset = cfg.train_dataloader.dataset
    if isinstance(dataset.get('split'), dict) and 'num_labels' in dataset.split:
        options['train_dataloader.dataset.split.seed'] = seed
    for index, part in enumerate(dataset.get('datasets', [])):
        key = f'train_dataloader.dataset.datasets.{index}'
        if 'fold' in part:  # For detection, each seed uses another fold.
            options[f'{key}.fold'] = seed + 1
        elif re.search(r'\.\d+@', part.get('ann_file', '')):  # As tools/split_coco.py names it.
            options[f'{key}.ann_file'] = re.sub(r'\.\d+@', f'.{seed + 1}@', part.ann_file)
    return options
