# SPDX-License-Identifier: Apache-2.0
"""The base class of all kinds of teacher, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Optional

from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.registry import Registry
from torch import nn

from se_mm.smoothing.options import OptionError, did_you_mean
from se_mm.smoothing.schedules import Schedule, constant
from se_mm.smoothing.settings import AVERAGE_BUFFERS, COPY, Settings
from se_mm.smoothing.tensors import named_tensors, unwrapped

if TYPE_CHECKING:
    from se_mm.teachers.updater import Updater

TEACHERS = Registry('teacher')
"""Kinds of teacher, by the value of the option ``kind``."""


class Teacher(ABC):
    """A teacher found in a model, and the student that it follows.

    A kind of teacher is a subclass registered in :data:`TEACHERS`, in this package or in yours; the
    order of registration makes no difference.

    Example:
        >>> from se_mm.teachers import TEACHERS, Pair
        >>> @TEACHERS.register_module('slow_fast', force=True)
        ... class SlowFast(Pair):
        ...     kind = 'slow_fast'
        ...     names = ('slow', 'fast')  # submodules of the model: teacher and student
    """

    kind: ClassVar[str]  # Its name in TEACHERS.
    # Whether it fits every model, and is used only if no other kind fits.
    fallback: ClassVar[bool] = False
    default_momentum: ClassVar[float]  # That of the stock hook that ours replaces.
    # Whether the model triggers the updates, in its forward; otherwise the hook does, after it.
    updated_by_model: ClassVar[bool]
    model: nn.Module  # The model of the run, without its wrapper.
    path: str  # Dotted name of the teacher in the model; empty for a copy of the model.
    module: nn.Module  # The teacher.
    student: Optional[nn.Module]  # None: known from the model's first call.
    # Name of a part of `module` -> name of its student in the model; '' is the whole.
    follows: Mapping[str, str]
    # The averaged model that holds the teacher. It counts the updates, and its average, interval
    # and buffer policy apply. None: the first update is made before the first iteration.
    averaged: Optional[BaseAveragedModel] = None
    # Name of each part of the teacher in a checkpoint -> its name when published.
    parts: Mapping[str, str]
    student_path: str = ''  # What is published as the student; empty: all but the teacher.

    @classmethod
    @abstractmethod
    def candidates(cls, model: nn.Module, settings: Settings) -> list[str]:
        """Dotted names of the possible teachers of this kind in ``model``."""

    @abstractmethod
    def __init__(
        self, model: nn.Module, path: str, settings: Settings, ema: Mapping[str, Any]
    ) -> None:
        """Find the student of the teacher ``path``, one of the candidates. Nothing is changed.

        A kind reads only options that name modules. ``ema`` has the hook's options of an
        ``EMAHook``: ``ema_type``, ``strict_load`` and those of the averaged model.
        """

    def __str__(self) -> str:
        students = ', '.join(self.follows.values()) or 'what its model passes to update_parameters'
        return f'{self.path} ({self.kind}) follows {students}'

    def install(self, updater: Updater) -> None:
        """Replace the update of the averaged model, in this instance."""
        vars(self.averaged)['update_parameters'] = updater

    def find(self, who: str, layer: str) -> nn.Module:
        """The module that holds a layer of the teacher or of the student now.

        ``layer`` is its dotted name in the student, and ``who`` is ``'teacher'`` or ``'student'``.
        """
        found = submodule('layer', self.model, layer)
        if who == 'student':
            return found
        for part, student in self.follows.items():
            if f'{layer}.'.startswith(f'{student}.'):
                return self.module.get_submodule((part + layer[len(student) :]).lstrip('.'))
        raise OptionError(
            f'layer must be in the student of {self.path!r}, that is in '
            f'{", ".join(map(repr, self.follows.values()))}, got {layer!r}'
        )

    @property
    def momentum(self) -> Optional[Schedule]:
        """The momentum if the hook has none. None: the averaged model's own average."""
        if self.averaged is not None:
            return None
        return Schedule(constant, {'value': self.default_momentum})

    @property
    def buffers(self) -> Optional[str]:
        """The policy of buffers if the hook has none. None: the settings' default."""
        if self.averaged is not None and self.averaged.update_buffers:
            return AVERAGE_BUFFERS
        return COPY if self.updated_by_model else None

    def student_name(self, inner: str) -> str:
        """Name of the student's tensor in the model, from the name in the teacher's module."""
        for part, student in self.follows.items():
            if not part or inner.startswith(f'{part}.'):
                return f'{student}.{inner[len(part) :].lstrip(".")}'.lstrip('.')
        return inner

    @property
    def cautions(self) -> Sequence[str]:
        """What may surprise a user about this teacher; shown by the check and in the log."""
        return ()


def plain_model(model: nn.Module) -> nn.Module:
    """The model inside MMEngine's wrapper, if there is one."""
    return model.get_submodule('module') if is_model_wrapper(model) else model


def submodule(key: str, model: nn.Module, path: str) -> nn.Module:
    """The module of ``model`` with a dotted name, the value of the option ``key``.

    Raises:
        OptionError: If there is none; suggests the most similar name.
    """
    try:
        return unwrapped(model.get_submodule(path))
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        children = ', '.join(name for name, _ in model.named_children())
        raise OptionError(
            f'{key} must be the dotted name of a module in {type(model).__name__}, got {path!r}.'
            f'{did_you_mean(path, names) or f" It has {children}."}'
        ) from None


def signature(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters and buffers."""
    tensors = named_tensors(unwrapped(module))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def siblings_like(model: nn.Module, path: str, part: nn.Module) -> list[str]:
    """Dotted names of the modules next to a teacher with the tensors of ``part``, a part of it.

    If there are several, those of its class.
    """
    folder, _, attribute = path.rpartition('.')
    prefix = folder + '.' if folder else ''
    wanted = signature(part)
    found = [
        (prefix + name, sibling)
        for name, sibling in model.get_submodule(folder).named_children()
        if name != attribute and signature(sibling) == wanted
    ]
    cls = type(unwrapped(part))
    same = [name for name, sibling in found if type(unwrapped(sibling)) is cls]
    return same or [name for name, _ in found]
