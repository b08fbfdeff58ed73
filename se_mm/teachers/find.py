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
        ema: What the line has of an ``EMAHook``: see :class:`~se_mm.teachers.base.Teacher`.

    Raises:
        OptionError: If several teachers could be meant, or what is named does not fit the model.
    """
    settings = settings or Settings()
    if settings.kind is not None:
        cls = _registered(settings.kind)
    elif settings.teacher is not None:
        cls = _kind_of(model, settings)
    elif settings.update_method is not None:
        cls = _registered('method')
    elif kind is not None:
        cls = _registered(kind)
    else:
        return _only(model, settings, ema)
    if not cls.fallback and set(ema) - {'update_buffers'}:
        option = next(iter(set(ema) - {'update_buffers'}))
        raise OptionError(
            f"{option} needs a copy of the model, kind='shadow', and the line means {cls.kind!r}"
        )
    return cls(model, _path(cls, model, settings), settings, ema)


def bound_teacher(runner: Runner) -> Optional[Teacher]:
    """The teacher of a run: the one that a hook of ours moves, else the one in its model.

    Args:
        runner: The runner of the run.

    Returns:
        None if the model has no teacher in it and no hook of ours keeps one beside it.

    Raises:
        OptionError: If several could be meant.
    """
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


def _only(model: nn.Module, settings: Settings, ema: Mapping[str, Any]) -> Teacher:
    """The only teacher of a model, else a copy of it."""
    found = candidates(model, settings)
    if len(found) > 1:
        raise OptionError(
            f'teacher must be set, since {type(model).__name__} has several: '
            f'{", ".join(map(repr, found))}'
        )
    for path, cls in found.items():
        _check_pretrained(model, path, cls)
        return cls(model, path, settings, ema)
    fallback = next(cls for cls in TEACHERS.module_dict.values() if cls.fallback)
    return fallback(model, '', settings, ema)


def _registered(kind: str) -> type[Teacher]:
    """The kind with a name.

    Raises:
        OptionError: If there is none.
    """
    known = TEACHERS.module_dict
    if kind not in known:
        raise OptionError(
            f'kind must be one of {", ".join(map(repr, known))}, got {kind!r}.'
            f'{did_you_mean(kind, known)}'
        )
    return known[kind]


def _path(cls: type[Teacher], model: nn.Module, settings: Settings) -> str:
    """Dotted name of the teacher of a kind.

    Raises:
        OptionError: If the model has none of that kind, or several and none is named.
    """
    if settings.teacher is not None and not cls.fallback:
        submodule('teacher', model, settings.teacher)
        return settings.teacher
    found = cls.candidates(model, settings)
    name = type(model).__name__
    if not found:
        others = candidates(model, settings)
        has = ', '.join(f'{path!r} ({other.kind})' for path, other in others.items()) or 'none'
        fallback = next(c for c in TEACHERS.module_dict.values() if c.fallback)
        raise OptionError(
            f'{name} has no teacher of kind {cls.kind!r} (teachers in it: {has}): name modules '
            f'by teacher= and student=, or set kind={fallback.kind!r} for a copy of the model'
        )
    if len(found) > 1:
        raise OptionError(
            f'teacher must be set, since {name} has several of kind {cls.kind!r}: '
            f'{", ".join(map(repr, found))}'
        )
    return found[0]


def _kind_of(model: nn.Module, settings: Settings) -> type[Teacher]:
    """The kind of a teacher that is named."""
    assert settings.teacher is not None
    found = candidates(model, settings)
    if settings.teacher in found:
        return found[settings.teacher]
    module = submodule('teacher', model, settings.teacher)
    if isinstance(module, BaseAveragedModel):
        return _registered('averaged')
    if settings.update_method is not None:
        return _registered('method')
    if settings.student is None:
        known = ', '.join(map(repr, found)) or 'none'
        raise OptionError(
            f'student must be set beside teacher={settings.teacher!r}, which is no averaged model '
            f'(teachers found: {known}).{did_you_mean(settings.teacher, found)}'
        )
    return _registered('pair')


def _check_pretrained(model: nn.Module, path: str, cls: type[Teacher]) -> None:
    """Raise OptionError for a teacher that is loaded from a checkpoint of its own.

    A distillation has such a teacher, which no update may overwrite.
    """
    if cls.updated_by_model:
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
