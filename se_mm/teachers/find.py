# SPDX-License-Identifier: Apache-2.0
"""Find the teacher in a model, from the options of a hook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from mmengine.model import BaseAveragedModel
from mmengine.runner import Runner
from torch import nn

from se_mm.smoothing.options import OptionError, check_choice, did_you_mean
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

    The kind is given by the option ``kind``, or the options ``teacher`` and ``update_method``, or
    the options of a stock hook. Otherwise the model must have exactly one teacher; if it has none,
    the teacher is a copy of the model.

    Args:
        model: The model of the run, without its wrapper.
        settings: The options. None: the defaults.
        kind: The kind that the options of a stock hook mean.
        ema: The options of an ``EMAHook``.

    Raises:
        OptionError: If several teachers are possible, or an option does not fit the model.
    """
    settings = settings or Settings()
    kind = settings.kind or _kind_of(model, settings) or kind
    name, of_kind = type(model).__name__, f' of kind {kind!r}' if kind else ''
    fallback = next(cls for cls in TEACHERS.module_dict.values() if cls.fallback)
    known = candidates(model, settings)
    if kind is None:
        found = known or {'': fallback}
    else:
        cls = TEACHERS.module_dict[check_choice('kind', kind, TEACHERS.module_dict)]
        options = sorted(set(ema) - {'update_buffers'})
        if options and not cls.fallback:
            raise OptionError(
                f"{options[0]} needs a copy of the model, kind='shadow', but the other options "
                f'select kind={kind!r}'
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
    """The teacher of a run: that of a hook of ours, or else the only one in the model."""
    for hook in runner.hooks:
        teacher = getattr(hook, 'teacher', None)
        if isinstance(teacher, Teacher):
            return teacher
    model = plain_model(runner.model)
    return find_teacher(model) if candidates(model, Settings()) else None


def candidates(model: nn.Module, settings: Settings) -> dict[str, type[Teacher]]:
    """Dotted name of each teacher in a model -> its kind, except kinds that fit every model."""
    found: dict[str, type[Teacher]] = {}
    for cls in TEACHERS.module_dict.values():
        if not cls.fallback:
            for path in cls.candidates(model, settings):
                # If a model updates its pair by a method, it triggers the updates.
                if path not in found or cls.updated_by_model:
                    found[path] = cls
    return found


def _kind_of(model: nn.Module, settings: Settings) -> Optional[str]:
    """The kind that the options ``teacher`` and ``update_method`` select."""
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
            f'student must be set with teacher={settings.teacher!r}, which is no averaged model '
            f'(teachers found: {known}).{did_you_mean(settings.teacher, found)}'
        )
    return method or 'pair'


def _check_pretrained(model: nn.Module, path: str, cls: type[Teacher]) -> None:
    """Raise OptionError if only the teacher has a pretrained checkpoint, as in a distillation."""
    if cls.updated_by_model or cls.fallback:
        return
    teacher = model.get_submodule(path)
    source = _pretrained(teacher)
    others = (_pretrained(module) for module in model.modules() if module is not teacher)
    if source and source not in others:
        raise OptionError(
            f'kind must be set, since {path!r} of {type(model).__name__} is loaded from its own '
            f"checkpoint ({source}): kind='shadow' leaves it unchanged and updates a copy of the "
            f'whole model, kind={cls.kind!r} updates {path!r}'
        )


def _pretrained(module: nn.Module) -> Optional[str]:
    """The checkpoint that a module's ``init_cfg`` loads, or None."""
    found = getattr(module, 'init_cfg', None)
    for cfg in found if isinstance(found, (list, tuple)) else [found]:
        if isinstance(cfg, Mapping) and cfg.get('type') == 'Pretrained':
            return str(cfg.get('checkpoint'))
    return None
