# SPDX-License-Identifier: Apache-2.0
"""Expand a matrix of smoothings over any config into cells, and add the control of each.

In expectation over its picks, a teacher with Spatial Ensemble equals a moving average with another
momentum: its control. Only a comparison with the control shows the effect of the mechanism, and not
merely of how fast the teacher follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Optional

from mmengine.config import Config
from mmengine.registry import DefaultScope

from se_mm.engine.check import check_config, hook_classes
from se_mm.smoothing import Rule, Schedule
from se_mm.smoothing.options import OptionError, check_choice, check_keys
from se_mm.smoothing.schedules import constant, cosine, linear
from se_mm.smoothing.settings import AVERAGE_NORMS
from se_mm.studies.runs import digest

AXES = {
    'none': (),
    'tma': ('momentum', 'buffers'),
    'se': ('keep_prob', 'granularity', 'buffers'),
    'sts': ('keep_prob', 'momentum', 'match_horizon', 'granularity', 'buffers'),
}
"""Smoothing -> its options in a matrix."""
_KEEP_PROB = {'none': 0.0, 'tma': 0.0, 'se': 0.99, 'sts': 0.7}
# Options of a hook that the smoothing replaces: always, with a momentum, and without an average.
_METHOD = {'type', '_scope_', 'keep_prob', 'match_horizon', 'granularity'}
_MOMENTUM = {'momentum', 'ema_type', 'gamma'}
_AVERAGE = {*_MOMENTUM, 'fp32_teacher'}
# By name, since mmdet may not be installed.
_TEACHER_HOOKS = {'SpatialEnsembleHook', 'EMAHook', 'MeanTeacherHook'}


@dataclass(frozen=True)
class Cell:
    """One setting of a study, trained with several seeds."""

    name: str
    config: Config  # Without a seed.
    rule: Optional[Rule]  # How its teacher is updated; None if no hook of se_mm does it.
    control: Optional[str] = None  # Name of the cell that is its TMA at the matched horizon.
    # Name of the teacher in a run that has several beside one student, '' for the student itself.
    shadow: Optional[str] = None
    kind: str = ''  # Of its teacher.
    buffers: Optional[str] = None  # The policy of its buffers.

    @property
    def training(self) -> str:
        """The name of its training, which is that of all teachers of one student."""
        return self.name if self.shadow is None else 'shadows'

    @property
    def folder(self) -> str:
        """The folder of its training, which no other config has."""
        name = re.sub(r'[^a-zA-Z0-9.-]+', '_', self.training)
        return f'{name}-{digest(self.config.to_dict())}'

    def metric(self, name: str) -> str:
        """The name of one of its metrics in its run."""
        return f'{self.shadow}/{name}' if self.shadow else name

    @property
    def picks(self) -> bool:
        """Whether its teacher is updated in parts, and is no moving average."""
        return self.rule is not None and self.rule.keep_prob.plain() != 0

    @property
    def key(self) -> tuple[Optional[Rule], str]:
        """Equal for cells that train the same."""
        rest = self.config if self.rule is None else _with_hook(self.config, 'none', {})
        return self.rule, digest(rest.to_dict())


def matrix_cells(cfg: Config, matrix: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Return the cells of a matrix over a training config, and their controls.

    The matrix has dicts of ``smoothing`` and its options in :data:`AXES`, each a value or several.
    In each cell the hook that updates the teacher is replaced and keeps its other options; if there
    is no such hook, one is added.
    """
    cells = []
    sts = plain_cell('the config', _with_hook(cfg, 'sts', {}))
    for part in matrix:
        check_keys('matrix', part, ['smoothing', *AXES['sts']])
        axes = {k: v if v and isinstance(v, (list, tuple)) else [v] for k, v in part.items()}
        smoothings = [check_choice('smoothing', s, AXES) for s in axes.pop('smoothing', [None])]
        for name in axes:
            if not any(name in AXES[smoothing] for smoothing in smoothings):
                raise OptionError(f'{name} is no option of smoothing {", ".join(smoothings)}')
        for smoothing in smoothings:
            grid = {'keep_prob': [_KEEP_PROB[smoothing]], **axes}
            names = [name for name in AXES[smoothing] if name in grid]
            for values in product(*(grid[name] for name in names)):
                cells.append(_cell(cfg, smoothing, dict(zip(names, values)), sts.buffers))
    return with_controls(cells)


def plain_cell(name: str, cfg: Config) -> Cell:
    """Make a cell of an unchanged config, or raise OptionError if it cannot be trained."""
    try:
        report = check_config(cfg)
    except OptionError as error:
        raise OptionError(f'{name}: {error}') from error
    buffers = report.settings.get('buffers')
    cell = Cell(name, cfg, report.rule, kind=report.kind, buffers=buffers)
    if cell.rule is None or cell.picks:
        return cell
    return replace(cell, rule=replace(cell.rule, match_horizon=False, granularity='tensor'))


def with_controls(cells: Iterable[Cell]) -> list[Cell]:
    """Remove duplicate cells, and add missing controls."""
    found: dict[Any, Cell] = {}
    for cell in cells:
        found.setdefault(cell.key, cell)
    for key, cell in list(found.items()):
        momentum = matched_momentum(cell.rule) if cell.rule and cell.picks else None
        if momentum is not None:
            control = _cell(cell.config, 'tma', {'momentum': momentum}, cell.buffers)
            if control.name in [other.name for other in found.values()]:  # With another config.
                control = replace(control, name=f'{control.name} for {cell.name}')
            control = found.setdefault(control.key, control)
            found[key] = replace(cell, control=control.name)
    return list(found.values())


def matched_momentum(rule: Rule) -> Any:
    """Return the momentum of the average that equals a teacher in expectation over its picks.

    It is ``(1 - keep_prob) * momentum``, or with ``match_horizon`` the momentum itself, as in a
    config; None if no schedule expresses it.
    """
    keep, momentum = rule.keep_prob, rule.momentum
    if momentum is None:
        return None
    if rule.match_horizon:  # The momentum of the picked units is limited to 1.
        limit = 1 - keep.parameters.get('value', 0.0)
        return _changed(momentum, lambda value: min(value, limit))
    if keep.function is constant:
        return _changed(momentum, lambda value: (1 - keep.plain()) * value)
    if momentum.function is constant:
        return _changed(keep, lambda value: (1 - value) * momentum.plain())
    return None


def _changed(schedule: Schedule, change: Callable[[float], float]) -> Any:
    """Return a schedule with changed values, as in a config; None if it depends on others too."""
    if schedule.function not in (constant, linear, cosine):
        return None
    values = {name: float(f'{change(x):.12g}') for name, x in schedule.parameters.items()}
    return replace(schedule, parameters=values).plain()


def _cell(cfg: Config, smoothing: str, options: Mapping[str, Any], buffers: Optional[str]) -> Cell:
    """Make a cell of a config with another smoothing, named after the options."""
    words = ['none' if smoothing == 'none' else smoothing.upper()]
    for name, value in options.items():
        schedule = isinstance(value, Mapping)
        words += [name, ' '.join(map(str, value.values())) if schedule else str(value)]
    return plain_cell(' '.join(words), _with_hook(cfg, smoothing, options, buffers))


def _with_hook(
    cfg: Config, smoothing: str, options: Mapping[str, Any], buffers: Optional[str] = None
) -> Config:
    """Return a copy of the config with another smoothing."""
    cfg = deepcopy(cfg)
    place = teacher_hook(cfg)
    hooks = list(cfg.get('custom_hooks') or [])
    copies = smoothing in ('none', 'se')
    dropped = _METHOD | (_AVERAGE if copies else _MOMENTUM if 'momentum' in options else set())
    hook: dict[str, Any] = {'type': 'SpatialEnsembleHook' if copies else 'SETMAHook'}
    for old in hooks[place : place + 1]:
        hook |= {name: value for name, value in old.items() if name not in dropped}
    hook |= {'keep_prob': _KEEP_PROB[smoothing], **options}
    # By default only STS averages statistics, and then it would be compared with other ones.
    if buffers == AVERAGE_NORMS and not {'buffers', 'update_buffers', 'skip_buffer'} & hook.keys():
        hook['buffers'] = buffers
    hooks[place : place + 1] = [hook]
    cfg.custom_hooks = hooks
    return cfg


def teacher_hook(cfg: Config) -> int:
    """Return the index of the custom hook that updates the teacher; without one, their number."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        for entry, kind in hook_classes(cfg):
            if _TEACHER_HOOKS & {cls.__name__ for cls in kind.__mro__}:
                return cfg.custom_hooks.index(entry)
    return len(cfg.get('custom_hooks') or ())
