# SPDX-License-Identifier: Apache-2.0
"""What every kind of teacher has in common, and the registry that kinds are added to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Optional, Union

from mmengine.model import is_model_wrapper
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch import nn

from se_mm.models import SmoothedModel
from se_mm.smoothing.options import OptionError, did_you_mean
from se_mm.smoothing.rules import AverageFunction
from se_mm.smoothing.schedules import Schedule
from se_mm.smoothing.units import Pair, plain_name

TEACHERS = Registry('teacher')
"""Kinds of teacher. They are asked in the order in which they were registered."""


class Teacher(ABC):
    """A teacher found in a model, and the student that it follows.

    A kind of teacher is a subclass registered in :data:`TEACHERS`.

    Attributes:
        kind: Name of the kind, for messages.
        default_momentum: The momentum of the stock hook whose place ours takes.
        updated_by_model: Whether the model asks for an update, in its forward; otherwise the hook
            does, after the iteration.
        taught_from_start: Whether the model uses its teacher before the first update, which is
            then made before the first iteration.
        saved_with_steps: Whether a checkpoint's model has the count of updates; otherwise the
            record of the hook has it.
        path: Dotted name of the teacher in its model; empty for a teacher outside it.
        parameters: The parameter pairs.
        buffers: The buffer pairs.
    """

    kind: ClassVar[str]
    default_momentum: ClassVar[float]
    updated_by_model: ClassVar[bool]
    taught_from_start: ClassVar[bool] = False
    saved_with_steps: ClassVar[bool] = True
    path: str
    parameters: tuple[Pair, ...]
    buffers: tuple[Pair, ...]

    @classmethod
    @abstractmethod
    def candidates(cls, model: nn.Module) -> list[str]:
        """Dotted names of what could be a teacher of this kind in ``model``."""

    @abstractmethod
    def __init__(
        self, model: nn.Module, path: str, student: Union[str, Sequence[str], None]
    ) -> None:
        """Pair the teacher with its student, and change nothing.

        Args:
            model: The model of the run, without its wrapper.
            path: One of the candidates.
            student: Dotted name of the student, or of its parts; None: found by its shape.

        Raises:
            OptionError: If teacher and student do not pair.
        """

    @abstractmethod
    def __str__(self) -> str:
        """What follows what, for the log."""

    @abstractmethod
    def install(self) -> SmoothedModel:
        """Put a smoothed model in the teacher's place, and return it."""

    @abstractmethod
    def module(self, who: str, layer: str) -> nn.Module:
        """The module that now holds a layer of the teacher or of the student.

        Args:
            who: ``'teacher'`` or ``'student'``.
            layer: Dotted name of the layer in the student's model.

        Raises:
            OptionError: If there is no such layer, or the teacher has none like it.
        """

    def inherited_average(self) -> Union[Schedule, AverageFunction, None]:
        """The averaging of what is replaced; None where there is nothing to inherit."""
        return None

    @property
    def caution(self) -> Optional[str]:
        """What a user may not expect of this teacher, to be said when the run starts."""
        return None


def submodule(key: str, model: nn.Module, path: str) -> nn.Module:
    """The module of ``model`` with a dotted name.

    Args:
        key: The config key that named it, for the message.
        model: Where to look.
        path: The dotted name.

    Raises:
        OptionError: If there is none; it names the nearest.
    """
    if not isinstance(path, str) or not path:
        raise OptionError(f'{key}={path!r} is not allowed: the dotted name of a module.')
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        raise OptionError(
            f'{key}={path!r} does not exist: the dotted name of a module in '
            f'{type(model).__name__}.{did_you_mean(path, names) or _children(model)}'
        ) from None


def siblings_like(model: nn.Module, path: str, part: nn.Module) -> list[str]:
    """Dotted names of the modules beside a teacher with the class and the tensors of ``part``.

    Args:
        model: Where to look.
        path: Dotted name of the teacher.
        part: The teacher, or a part of it.
    """
    folder, _, attribute = path.rpartition('.')
    prefix = folder + '.' if folder else ''
    return [
        prefix + name
        for name, sibling in model.get_submodule(folder).named_children()
        if type(sibling) is type(part)
        and name != attribute
        and signature(sibling) == signature(part)
    ]


def only_sibling(model: nn.Module, path: str, part: nn.Module) -> str:
    """The one name of :func:`siblings_like`.

    Raises:
        OptionError: If there is none, or several.
    """
    paths = siblings_like(model, path, part)
    if len(paths) == 1:
        return paths[0]
    found = 'several are' if paths else 'none is'
    options = f' of {", ".join(repr(path) for path in paths)}' if paths else ''
    raise OptionError(
        f'student=None is not enough for the teacher {path!r}: {found} like its '
        f'{type(part).__name__}. Give the dotted name{options}, or a list of one for each part.'
    )


def signature(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters and buffers."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {plain_name(name): tuple(tensor.shape) for name, tensor in tensors}


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
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if any(path for kind in TEACHERS.module_dict.values() for path in kind.candidates(model)):
        return find_teacher(model)
    return None


def _children(model: nn.Module) -> str:
    names = ', '.join(name for name, _ in model.named_children())
    return f' It has {names}.' if names else ''


def find_teacher(
    model: nn.Module,
    teacher: Optional[str] = None,
    student: Union[str, Sequence[str], None] = None,
) -> Teacher:
    """Find the teacher of a model.

    The kinds are asked in turn. The last, a shadow, fits every model.

    Args:
        model: The model of the run, without its wrapper.
        teacher: Dotted name of the teacher, where it should not be found by itself.
        student: Dotted name of its student, or a list of the names of its parts in order.

    Raises:
        OptionError: If there is none by that name, several could be meant, or teacher and student
            do not pair.
    """
    kinds: list[type[Teacher]] = list(TEACHERS.module_dict.values())
    found = {path: kind for kind in reversed(kinds) for path in kind.candidates(model) if path}
    name = type(model).__name__
    if teacher is not None:
        if not found:
            raise OptionError(
                f'teacher={teacher!r} is not allowed: {name} holds nothing averaged. Leave '
                f'teacher out, and a copy of the whole model will be kept as one.'
            )
        if teacher not in found:
            submodule('teacher', model, teacher)
            raise OptionError(
                f'teacher={teacher!r} is not a teacher: one of '
                f'{", ".join(repr(path) for path in found)}.{did_you_mean(teacher, found)}'
            )
        return found[teacher](model, teacher, student)
    if len(found) > 1:
        raise OptionError(
            f'teacher=None is ambiguous: {name} has several, name one of '
            f'{", ".join(repr(path) for path in found)}.'
        )
    for kind in kinds:
        paths = kind.candidates(model)
        if paths:
            return kind(model, paths[0], student)
    raise OptionError(f'{name} has no teacher.')  # Only if the shadow was taken out of TEACHERS.
