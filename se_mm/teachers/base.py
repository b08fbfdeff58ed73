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

    Attributes:
        kind: Its name in :data:`TEACHERS`.
        fallback: Whether it fits every model, so that it is taken only where no other kind fits.
        default_momentum: The momentum of the stock hook that ours replaces.
        updated_by_model: Whether the model asks for the updates, during its forward; otherwise the
            hook asks, after each iteration.
        taught_from_start: Whether the stock hook makes the first update, the copy of the student,
            before the first iteration; otherwise it is made at the first opportunity.
        saved_with_steps: Whether a checkpoint's model has the count of updates; otherwise the
            hook's record has it.
        path: Dotted name of the teacher in its model; empty for a teacher beside it.
        module: The module that follows.
        student: The module that is followed. None if only the model's call will tell.
        averaged: The averaged model that the teacher is kept in, whose average, interval and buffer
            policy count; None if there is none.
        outside: The module that is kept beside the model, if any.
    """

    kind: ClassVar[str]
    fallback: ClassVar[bool] = False
    default_momentum: ClassVar[float]
    updated_by_model: ClassVar[bool]
    taught_from_start: ClassVar[bool] = False
    saved_with_steps: ClassVar[bool] = True
    path: str
    module: nn.Module
    student: Optional[nn.Module]
    averaged: Optional[BaseAveragedModel] = None
    outside: Optional[nn.Module] = None

    @classmethod
    @abstractmethod
    def candidates(cls, model: nn.Module, settings: Settings) -> list[str]:
        """Dotted names of what could be a teacher of this kind in ``model``."""

    @abstractmethod
    def __init__(
        self, model: nn.Module, path: str, settings: Settings, ema: Mapping[str, Any]
    ) -> None:
        """Find the student of a teacher, and change nothing.

        Args:
            model: The model of the run, without its wrapper.
            path: One of the candidates.
            settings: The options, of which a kind may read those that name things.
            ema: What the line has of an ``EMAHook``: ``ema_type``, ``strict_load`` and the averaged
                model's own options.

        Raises:
            OptionError: If there is no student.
        """

    @abstractmethod
    def __str__(self) -> str:
        """What follows what, for the log."""

    @abstractmethod
    def install(self, mover: Mover) -> None:
        """Let the mover make the updates that the model asks for."""

    @abstractmethod
    def find(self, who: str, layer: str) -> nn.Module:
        """The module that holds a layer of the teacher or of the student now.

        Args:
            who: ``'teacher'`` or ``'student'``.
            layer: Dotted name of the layer in the student's model.

        Raises:
            OptionError: If there is no such layer, or the teacher has none like it.
        """

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, str]:
        """Dotted name of each part of the teacher in a checkpoint -> its name when published."""

    @property
    def student_path(self) -> str:
        """Dotted name of what is published as the student; empty for all but the teacher."""
        return ''

    @property
    def momentum(self) -> Optional[Schedule]:
        """The momentum where the line gives none. None: the averaged model's own average.

        Raises:
            OptionError: If there is no default.
        """
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
        return inner

    @property
    def cautions(self) -> Sequence[str]:
        """What a user might not expect of this teacher; said by the check and in the log."""
        return ()


def plain_model(model: nn.Module) -> nn.Module:
    """The model inside MMEngine's wrapper, if there is one."""
    return model.get_submodule('module') if is_model_wrapper(model) else model


def submodule(key: str, model: nn.Module, path: str) -> nn.Module:
    """The module of ``model`` with a dotted name.

    Args:
        key: The option that named it, for the message.
        model: Where to look.
        path: The dotted name.

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
    """Dotted names of the modules beside a teacher with the tensors of ``part``.

    Of several, those of its class are meant.

    Args:
        model: Where to look.
        path: Dotted name of the teacher.
        part: The teacher, or a part of it.
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
