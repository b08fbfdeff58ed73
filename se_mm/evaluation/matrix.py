# SPDX-License-Identifier: Apache-2.0
"""Expand a matrix of smoothings over any config into cells, and add the control of each.

In expectation over its picks, a teacher with Spatial Ensemble equals a moving average with another
momentum. This average is its control at the matched horizon. Only a comparison with the control
shows the effect of the mechanism, and not merely of how fast the teacher follows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, DefaultScope

from se_mm.engine.check import check_config
from se_mm.engine.hooks import SpatialEnsembleHook
from se_mm.smoothing import Rule
from se_mm.smoothing.options import OptionError, check_choice, check_keys
from se_mm.smoothing.schedules import Schedule, constant, cosine, linear

AXES = {
    'none': (),
    'tma': ('momentum',),
    'se': ('keep_prob', 'granularity'),
    'sts': ('keep_prob', 'momentum', 'match_horizon', 'granularity'),
}
"""Smoothing -> its options."""
KEYS = ('smoothing', 'keep_prob', 'momentum', 'match_horizon', 'granularity')
"""Keys of a matrix."""
_KEEP_PROB = {'se': 0.99, 'sts': 0.7}
# Options of a hook that a cell replaces; and those of an average that a momentum replaces.
_AVERAGE = ('momentum', 'ema_type', 'gamma')
_DROPPED = ('type', 'keep_prob', 'match_horizon', 'granularity')


@dataclass(frozen=True)
class Cell:
    """One setting of a comparison, trained with several seeds.

    Attributes:
        name: Its name in tables.
        config: The config of its runs, without their seeds.
        rule: How its teacher is updated; None if no hook of se_mm does it.
        control: Name of the cell that is its TMA at the matched horizon; None if the cell is a TMA
            itself or is not smoothed.
        note: Why a control is missing.
    """

    name: str
    config: Config
    rule: Optional[Rule]
    control: Optional[str] = None
    note: str = ''

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return re.sub(r'[^\w.-]+', '_', self.name.replace('{', '').replace('}', '')).strip('_')


def matrix_cells(cfg: Config, matrix: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Return the cells of a matrix over a config, and their controls.

    Args:
        cfg: A training config. In each cell the hook that updates the teacher is replaced and keeps
            its other options; if there is no such hook, one is added.
        matrix: Dicts of ``smoothing`` and its options (see :data:`AXES`), each a value or a list of
            values.

    Raises:
        OptionError: If the matrix is invalid, or a cell does not fit the config.
    """
    cells = []
    for number, part in enumerate(matrix):
        for smoothing, options in _combinations(f'matrix[{number}]', part):
            name = ' '.join([smoothing.upper() if smoothing != 'none' else 'none', *_said(options)])
            cells.append(_cell(name, _with_hook(cfg, smoothing, options)))
    return with_controls(cells)


def plain_cell(name: str, cfg: Config) -> Cell:
    """Make a cell of an unchanged config.

    Raises:
        OptionError: If it cannot be trained.
    """
    return _cell(name, cfg)


def with_controls(cells: Sequence[Cell]) -> list[Cell]:
    """Remove duplicate cells, and add missing controls."""
    found: list[Cell] = []
    for cell in cells:
        if not any(_same(cell, other) for other in found):
            found.append(cell)
    controls: list[Cell] = []
    for index, cell in enumerate(found):
        if cell.rule is None or _is_average(cell.rule):
            continue
        momentum = matched_momentum(cell.rule)
        if momentum is None:
            why = (
                f'{cell.name} has no control at the matched horizon: its momentum would not be one '
                f'of the schedules.'
            )
            found[index] = replace(cell, note=why)
            continue
        options = {'momentum': momentum}
        name = ' '.join(['TMA', *_said(options)])
        control = _cell(name, _with_hook(cell.config, 'tma', options))
        same = [other for other in (*found, *controls) if _same(control, other)]
        if not same:
            taken = [other.name for other in (*found, *controls)]
            if name in taken:  # By the control of another config in the comparison.
                control = replace(control, name=f'{name} for {cell.name}')
            controls.append(control)
        found[index] = replace(cell, control=(same or [control])[0].name)
    return [*found, *controls]


def matched_momentum(rule: Rule) -> Union[float, dict[str, Any], None]:
    """Return the momentum of the average that equals a teacher in expectation over its picks.

    Args:
        rule: A rule that picks only some of the units.

    Returns:
        The momentum as in a config; None if it is not one of the schedules.
    """
    keep, average = rule.keep_prob, rule.momentum
    kinds = (constant, linear, cosine)
    if keep.function not in kinds or average is None:
        return None
    if rule.match_horizon:
        if keep.function is constant and average.function is constant:
            # The momentum of picked units is limited to 1.
            return min(average.parameters['value'], 1 - keep.parameters['value'])
        return _scaled(average, lambda value: value)
    if keep.function is constant and average.function in kinds:
        taken = 1 - keep.parameters['value']
        return _scaled(average, lambda value: taken * value)
    if average.function is constant:
        weight = average.parameters['value']
        return _scaled(keep, lambda value: (1 - value) * weight)
    return None


def _scaled(schedule: Schedule, change: Any) -> Union[float, dict[str, Any]]:
    """Return a schedule with changed values, as in a config."""
    values = {
        name: value if name == 'gamma' else float(f'{change(value):.12g}')
        for name, value in schedule.parameters.items()
    }
    if schedule.function is constant:
        return values['value']
    return {'type': schedule.function.__name__, **values}


def _combinations(key: str, part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each smoothing of a part of a matrix with each combination of its options."""
    if not isinstance(part, Mapping):
        raise OptionError(f'{key} must be a dict with keys among {", ".join(KEYS)}, got {part!r}')
    check_keys(key, part, KEYS)
    axes = {name: _listed(f'{key}.{name}', values) for name, values in part.items()}
    if 'smoothing' not in axes:
        raise OptionError(f'{key}.smoothing must be set to one or more of {", ".join(AXES)}')
    smoothings = [check_choice(f'{key}.smoothing', s, AXES) for s in axes.pop('smoothing')]
    for name in axes:
        if not any(name in AXES[smoothing] for smoothing in smoothings):
            having = ', '.join(smoothing for smoothing in AXES if name in AXES[smoothing])
            raise OptionError(
                f'{key}.{name} must be left out for smoothing {", ".join(smoothings)}; it is an '
                f'option of {having}'
            )
    for smoothing in smoothings:
        names = [name for name in AXES[smoothing] if name in axes]
        for values in itertools.product(*(axes[name] for name in names)):
            options = dict(zip(names, values))
            if smoothing in _KEEP_PROB:
                options = {'keep_prob': _KEEP_PROB[smoothing], **options}
            yield smoothing, options


def _listed(key: str, values: Any) -> list[Any]:
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    if not values:
        raise OptionError(f'{key} must have at least one value, got []')
    return values


def _said(options: Mapping[str, Any]) -> list[str]:
    """Return the options as words, without defaults."""
    said = []
    for name, value in options.items():
        if name == 'granularity':
            said += [] if value == 'tensor' else [str(value)]
        elif name == 'match_horizon':
            said += ['matched'] if value is True else []
        elif isinstance(value, Mapping):
            inside = ' '.join(str(item) for item in value.values())
            said.append(f'{name} {{{inside}}}')
        else:
            said.append(f'{name} {value:g}' if isinstance(value, float) else f'{name} {value}')
    return said


def _with_hook(cfg: Config, smoothing: str, options: Mapping[str, Any]) -> Config:
    """Return a copy of the config with another smoothing."""
    cfg = deepcopy(cfg)
    hooks = list(cfg.get('custom_hooks') or [])
    place = _smoothing_hook(cfg, hooks)
    line = dict(hooks[place]) if place is not None else {}
    dropped = [*_DROPPED]
    if smoothing in ('none', 'se') or 'momentum' in options:
        dropped += _AVERAGE
    if smoothing in ('none', 'se'):
        dropped.append('fp32_teacher')
    kept = {name: value for name, value in line.items() if name not in dropped}
    fixed: dict[str, Any] = {}
    if smoothing in ('none', 'tma'):
        fixed = {'keep_prob': 0.0}
    kind = 'SpatialEnsembleHook' if smoothing in ('none', 'se') else 'SETMAHook'
    line = {'type': f'mmengine.{kind}' if '_scope_' in kept else kind, **kept, **fixed, **options}
    if place is None:
        hooks.append(line)
    else:
        hooks[place] = line
    cfg.custom_hooks = hooks
    return cfg


def _smoothing_hook(cfg: Config, hooks: Sequence[Any]) -> Optional[int]:
    """Return the index of the hook that updates the teacher: ours, or one that ours can replace.

    Raises:
        OptionError: If there are several such hooks.
    """
    places = []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        for index, hook in enumerate(hooks):
            kind = hook.get('type') if isinstance(hook, Mapping) else type(hook)
            kind = HOOKS.get(kind) if isinstance(kind, str) else kind
            if isinstance(kind, type) and (
                issubclass(kind, (SpatialEnsembleHook, EMAHook))
                # By name, since mmdet may not be installed.
                or 'MeanTeacherHook' in [cls.__name__ for cls in kind.__mro__]
            ):
                places.append(index)
    if len(places) > 1:
        raise OptionError(
            f'custom_hooks must have at most one hook that moves a teacher, got {len(places)}'
        )
    return places[0] if places else None


def _cell(name: str, cfg: Config) -> Cell:
    """Check a config and make a cell of it."""
    try:
        rule = check_config(cfg).rule
    except OptionError as error:
        raise OptionError(f'{name}: {error}') from error
    if rule is not None and _is_average(rule):
        rule = replace(rule, match_horizon=False, granularity='tensor')
    return Cell(name, cfg, rule)


def _is_average(rule: Rule) -> bool:
    """Return whether all units are picked at every update."""
    return rule.keep_prob.function is constant and rule.keep_prob.parameters['value'] == 0


def _same(one: Cell, other: Cell) -> bool:
    """Return whether two cells would train the same."""
    return one.rule == other.rule and _rest(one.config) == _rest(other.config)


def _rest(cfg: Config) -> dict[str, Any]:
    """Return a config without the options that define its smoothing."""
    rest = cfg.to_dict()
    hooks = list(rest.get('custom_hooks') or [])
    place = _smoothing_hook(cfg, hooks)
    if place is not None:
        dropped = {*_DROPPED, *_AVERAGE, 'fp32_teacher', '_scope_'}
        hooks[place] = {k: v for k, v in hooks[place].items() if k not in dropped}
    rest['custom_hooks'] = hooks
    return rest
