# SPDX-License-Identifier: Apache-2.0
"""Cells that share a training: teachers of one student, which does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from se_mm.smoothing import Settings
from se_mm.smoothing.ensemble import OPTIONS
from se_mm.studies.matrix import Cell, matched_momentum, teacher_hook


def shadows_of(cfg: Config) -> dict[str, Any]:
    """Return the teachers of a config's `ShadowsHook`: name -> options; empty without one."""
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if isinstance(hook, Mapping)]
    found = (dict(hook['shadows']) for hook in hooks if hook.get('type') == 'ShadowsHook')
    return next(found, {})


def shadow_cells(cfg: Config) -> list[Cell]:
    """Return a cell for the student of a `ShadowsHook` and one for each of its teachers."""
    settings = {name: Settings(**options) for name, options in shadows_of(cfg).items()}
    # A teacher and its control have the same horizon and the same policy of buffers.
    alike = {
        name: (matched_momentum(s.default), s.buffers or s.default_buffers)
        for name, s in settings.items()
    }
    averages = {alike[name]: name for name, s in settings.items() if s.keep_prob.plain() == 0}
    cells = [Cell('student', cfg, None, shadow='')]
    for name, s in settings.items():
        cell = Cell(name, cfg, s.default, shadow=name)
        cells.append(replace(cell, control=averages.get(alike[name])) if cell.picks else cell)
    return cells


def in_one_run(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with one training for all, if their students do not depend on the teachers.

    The teachers must be copies of the model that are only evaluated, batch by batch.
    """
    cfg = deepcopy(cells[0].config)
    place = teacher_hook(cfg)
    shadows: dict[str, Any] = {}
    for cell in cells:
        options = dict(cell.config.custom_hooks[place])
        inherits = options.pop('type') == 'SETMAHook' and 'momentum' not in options
        if cell.kind != 'shadow' or inherits or not options.keys() <= set(OPTIONS):
            return list(cells)
        shadows[cell.name] = options
    if (cfg.get('val_cfg') or {}).get('type', 'ValLoop') != 'ValLoop':
        return list(cells)
    cfg.custom_hooks[place] = dict(type='ShadowsHook', shadows=shadows)
    return [replace(cell, config=cfg, shadow=cell.name) for cell in cells]
