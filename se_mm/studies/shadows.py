# SPDX-License-Identifier: Apache-2.0
"""Cells that share a training: teachers that follow one student, which feels none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from se_mm.smoothing import Settings
from se_mm.smoothing.options import OptionError
from se_mm.studies.matrix import Cell, matched_momentum, place_of_mover

_OPTIONS = {'type', 'keep_prob', 'momentum', 'match_horizon', 'granularity', 'overrides', 'buffers'}


def has_shadows(cfg: Config) -> bool:
    """Whether a config has a `ShadowsHook`."""
    return bool(_shadows(cfg))


def shadow_cells(cfg: Config) -> list[Cell]:
    """Return a cell for the student of a `ShadowsHook` and one for each of its teachers."""
    shadows = _shadows(cfg)
    if not shadows:
        raise OptionError('configs must all have a ShadowsHook, or none of them')
    settings = {name: Settings(**options) for name, options in shadows.items()}
    # What a teacher and its control have in common: the horizon, and whose buffers they have.
    alike = {
        name: (matched_momentum(s.default), s.buffers or s.default_buffers)
        for name, s in settings.items()
    }
    averages = {alike[name]: name for name, s in settings.items() if s.keep_prob.plain() == 0}
    cells = [Cell('student', cfg, None, shadow='')]
    for name in shadows:
        cell = Cell(name, cfg, settings[name].default, shadow=name)
        cells.append(replace(cell, control=averages.get(alike[name])) if cell.picks else cell)
    return cells


def in_one_run(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with one training for all, if it would be the same without its teachers.

    That is so for copies of the model which are only evaluated, batch by batch.
    """
    cfg = deepcopy(cells[0].config)
    place = place_of_mover(cfg, cfg.custom_hooks)
    shadows: dict[str, Any] = {}
    for cell in cells:
        options = dict(cell.config.custom_hooks[place])
        averages = options['type'] == 'SETMAHook' and 'momentum' not in options
        plain = set(options) <= _OPTIONS and not averages
        loop = (cell.config.get('val_cfg') or {}).get('type', 'ValLoop')
        if cell.kind != 'shadow' or not plain or loop != 'ValLoop':
            return list(cells)
        shadows[cell.name] = {name: value for name, value in options.items() if name != 'type'}
    cfg.custom_hooks[place] = dict(type='ShadowsHook', shadows=shadows)
    return [replace(cell, config=cfg, shadow=cell.name) for cell in cells]


def _shadows(cfg: Config) -> Mapping[str, Any]:
    """The teachers of a config's `ShadowsHook`, by name."""
    for hook in cfg.get('custom_hooks') or []:
        if isinstance(hook, Mapping) and hook.get('type') == 'ShadowsHook':
            return dict(hook['shadows'])
    return {}
