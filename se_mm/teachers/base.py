# SPDX-License-Identifier: Apache-2.0
"""What every kind of teacher has in common, and the registry that kinds are added to."""

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
    from se_mm.teachers.mover import Mover

TEACHERS = Registry('teacher')
"""Kinds of teacher, by the name that the option ``kind`` has for them."""


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
    # Whether it fits every model, so that it is taken only where no other kind fits.
    fallback: ClassVar[bool] = False
    default_momentum: ClassVar[float]  # That of the stock hook that ours replaces.
    # Whether the model asks for the updates, in its forward; else the hook does, after it.
    updated_by_model: ClassVar[bool]
    # Whether the first update, the copy of the student, is made before the first iteration.
    taught_from_start: ClassVar[bool] = False
    # Whether a checkpoint's model has the count of updates; else the hook's record has it.
    saved_with_steps: ClassVar[bool] = True
    model: nn.Module  # The model of the run, without its wrapper.
    path: str  # Dotted name of the teacher in it; empty for a teacher beside it.
    module: nn.Module  # The module that follows.
    student: Optional[nn.Module]  # The one that is followed. None: the model's call will tell.
    # Name of a part of `module` -> that of its student in the model; '' is the whole.
    follows: Mapping[str, str]
    # The averaged model of the teacher, whose average, interval and buffer policy count.
    averaged: Optional[BaseAveragedModel] = None
    # Name of each part of the teacher in a checkpoint -> its name when published.
    parts: Mapping[str, str]
    student_path: str = ''  # What is published as the student; empty: all but the teacher.

    @classmethod
    @abstractmethod
    def candidates(cls, model: nn.Module, settings: Settings) -> list[str]:
        """Dotted names of what could be a teacher of this kind in ``model``."""

    @abstractmethod
    def __init__(
        self, model: nn.Module, path: str, settings: Settings, ema: Mapping[str, Any]
    ) -> None:
        """Find the student of a teacher, one of the candidates, and change nothing.

        A kind may read those options that name things; ``ema`` has the line's options of an
        ``EMAHook``: ``ema_type``, ``strict_load`` and the averaged model's own.
        """

    def __str__(self) -> str:
        students = ', '.join(self.follows.values()) or 'what its model passes to update_parameters'
        return f'{self.path} ({self.kind}) follows {students}'

    @abstractmethod
    def install(self, mover: Mover) -> None:
        """Let the mover make the updates that the model asks for."""

    def find(self, who: str, layer: str) -> nn.Module:
        """The module that holds a layer of the teacher or of the student now.

        ``layer`` is its dotted name in the student's model, and ``who`` ``'teacher'`` or
        ``'student'``.
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
        """The momentum where the line gives none. None: the averaged model's own average."""
        if self.averaged is not None:
            return None
        return Schedule(constant, {'value': self.default_momentum})

    @property
    def buffers(self) -> Optional[str]:
        """The policy of buffers where the line gives none. None: the settings' default."""
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
        """What a user might not expect of this teacher; said by the check and in the log."""
        return ()


def plain_model(model: nn.Module) -> nn.Module:
    """The model inside MMEngine's wrapper, if there is one."""
    return model.get_submodule('module') if is_model_wrapper(model) else model


def submodule(key: str, model: nn.Module, path: str) -> nn.Module:
    """The module of ``model`` with a dotted name, which the option ``key`` gave.

    Raises:
        OptionError: If there is none; it suggests the nearest.
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
    """Dotted names of the modules beside a teacher with the tensors of ``part``, all or one of it.

    Of several, those of its class are meant.
    """
    folder, _, attribute = path.rpartition('.')
    prefix = folder + '.' if folder else ''
    wanted = signature(part)
    found = [
        (prefix + name, sibling)
        for name, sibling in model.get_submodule(folder).named_children()
        if name != attribute and signature(sibling) == wanted
    ]
    alike = [name for name, sibling in found if type(unwrapped(sibling)) is type(unwrapped(part))]
    return alike or [name for name, _ in found]
