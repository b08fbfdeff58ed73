# SPDX-License-Identifier: Apache-2.0
"""Find the teacher that a line and a model mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from mmengine.model import BaseAveragedModel
from mmengine.runner import Runner
from torch import nn

from se_mm.smoothing.options import OptionError, did_you_mean
from se_mm.smoothing.settings import Settings
from se_mm.teachers.base import TEACHERS, Teacher, plain_model, submodule

_NO_EMA: Mapping[str, Any] = {}


def find_teacher(
    model: nn.Module,
    settings: Optional[Settings] = None,
    kind: Optional[str] = None,
    ema: Mapping[str, Any] = _NO_EMA,
) -> Teacher:
    """Find the teacher of a model.

    The option ``kind`` decides; else the options ``teacher`` and ``update_method``; else what the
    line's other options mean; else the model, where exactly one teacher is found. A copy of the
    model is kept where it has none.

    Args:
        model: The model of the run, without its wrapper.
        settings: The options. None: the defaults.
        kind: What the line's other options mean.
        ema: What the line has of an ``EMAHook``.

    Raises:
        OptionError: If several teachers could be meant, or what is named does not fit the model.
    """
    settings = settings or Settings()
    kind = settings.kind or _kind_of(model, settings) or kind
    name, of_kind = type(model).__name__, f' of kind {kind!r}' if kind else ''
    fallback = next(cls for cls in TEACHERS.module_dict.values() if cls.fallback)
    known = candidates(model, settings)
    if kind is None:
        found = known or {'': fallback}
    else:
        cls = _registered(kind)
        options = sorted(set(ema) - {'update_buffers'})
        if options and not cls.fallback:
            raise OptionError(
                f"{options[0]} needs a copy of the model, kind='shadow', and the line means "
                f'{kind!r}'
            )
        if settings.teacher is not None and not cls.fallback:
            submodule('teacher', model, settings.teacher)
            found = {settings.teacher: cls}
        else:
            found = dict.fromkeys(cls.candidates(model, settings), cls)
    if not found:
        has = ', '.join(f'{path!r} ({other.kind})' for path, other in known.items()) or 'none'
        raise OptionError(
            f'{name} has no teacher{of_kind} (teachers in it: {has}): name modules by teacher= and '
            f'student=, or set kind={fallback.kind!r} for a copy of the model'
        )
    if len(found) > 1:
        raise OptionError(
            f'teacher must be set, since {name} has several{of_kind}: {", ".join(map(repr, found))}'
        )
    ((path, cls),) = found.items()
    if kind is None:
        _check_pretrained(model, path, cls)
    return cls(model, path, settings, ema)


def bound_teacher(runner: Runner) -> Optional[Teacher]:
    """The teacher of a run: the one that a hook of ours moves, else the only one in its model."""
    for hook in runner.hooks:
        teacher = getattr(hook, 'teacher', None)
        if isinstance(teacher, Teacher):
            return teacher
    model = plain_model(runner.model)
    return find_teacher(model) if candidates(model, Settings()) else None


def candidates(model: nn.Module, settings: Settings) -> dict[str, type[Teacher]]:
    """Dotted name of each teacher in a model -> its kind, without those that fit every model."""
    found: dict[str, type[Teacher]] = {}
    for cls in TEACHERS.module_dict.values():
        if not cls.fallback:
            for path in cls.candidates(model, settings):
                # A model that moves its pair by a method is the one that asks.
                if path not in found or cls.updated_by_model:
                    found[path] = cls
    return found


def _registered(kind: str) -> type[Teacher]:
    known = TEACHERS.module_dict
    if kind not in known:
        raise OptionError(
            f'kind must be one of {", ".join(map(repr, known))}, got {kind!r}.'
            f'{did_you_mean(kind, known)}'
        )
    return known[kind]


def _kind_of(model: nn.Module, settings: Settings) -> Optional[str]:
    """The kind that the options ``teacher`` and ``update_method`` mean."""
    method = None if settings.update_method is None else 'method'
    if settings.teacher is None:
        return method
    found = candidates(model, settings)
    if settings.teacher in found:
        return found[settings.teacher].kind
    if isinstance(submodule('teacher', model, settings.teacher), BaseAveragedModel):
        return 'averaged'
    if settings.student is None and method is None:
        known = ', '.join(map(repr, found)) or 'none'
        raise OptionError(
            f'student must be set beside teacher={settings.teacher!r}, which is no averaged model '
            f'(teachers found: {known}).{did_you_mean(settings.teacher, found)}'
        )
    return method or 'pair'


def _check_pretrained(model: nn.Module, path: str, cls: type[Teacher]) -> None:
    """Raise OptionError for the teacher of a distillation, loaded from a checkpoint of its own."""
    if cls.updated_by_model or cls.fallback:
        return
    teacher = model.get_submodule(path)
    source = _pretrained(teacher)
    if source and all(
        _pretrained(other) != source for other in model.modules() if other is not teacher
    ):
        raise OptionError(
            f'kind must be set, since {path!r} of {type(model).__name__} is loaded from its own '
            f"checkpoint ({source}): kind='shadow' leaves it as it is and moves a copy of the "
            f'whole model, kind={cls.kind!r} moves {path!r}'
        )


def _pretrained(module: nn.Module) -> Optional[str]:
    """The checkpoint that a module's ``init_cfg`` loads, or None."""
    found = getattr(module, 'init_cfg', None)
    for cfg in found if isinstance(found, (list, tuple)) else [found]:
        if isinstance(cfg, Mapping) and cfg.get('type') == 'Pretrained':
            return str(cfg.get('checkpoint'))
    return None
