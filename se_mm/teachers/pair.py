# SPDX-License-Identifier: Apache-2.0
"""A teacher in the model, next to its student: FixMatch, SoftTeacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mmengine.model import BaseAveragedModel
from torch import Tensor, nn

from se_mm.smoothing.options import OptionError
from se_mm.smoothing.settings import Settings
from se_mm.smoothing.tensors import named_tensors, unwrapped
from se_mm.teachers.base import TEACHERS, Teacher, siblings_like, signature, submodule

if TYPE_CHECKING:
    from se_mm.teachers.updater import Updater


@TEACHERS.register_module('pair')
class Pair(Teacher):
    """Submodules ``teacher`` and ``student`` with the same tensors, in the model or one level down.

    The student may have more tensors, for example a predictor. mmdet's ``SemiBaseDetector`` and the
    semi-supervised classifiers of se_mm are such models. The options ``teacher`` and ``student``
    name other submodules. The hook's record in a checkpoint has the count of the updates.

    Attributes:
        names: Names of the two submodules.
    """

    kind = 'pair'
    names: ClassVar[tuple[str, str]] = ('teacher', 'student')
    default_momentum = 0.001
    updated_by_model = False

    @classmethod
    def candidates(cls, model: nn.Module, settings: Settings) -> list[str]:
        """Dotted names of the teachers that are next to their student."""
        return [path for path, _ in cls._pairs(model)]

    @classmethod
    def _pairs(cls, model: nn.Module) -> Iterator[tuple[str, str]]:
        """Dotted names of teacher and student."""
        for parent, module in [('', model), *model.named_children()]:
            teacher, student = (getattr(unwrapped(module), name, None) for name in cls.names)
            if not (isinstance(teacher, nn.Module) and isinstance(student, nn.Module)):
                continue
            if isinstance(teacher, BaseAveragedModel) or isinstance(student, BaseAveragedModel):
                continue
            tensors = signature(teacher)
            if tensors and tensors.items() <= signature(student).items():
                first, second = (f'{parent}.{name}'.lstrip('.') for name in cls.names)
                yield first, second

    def __init__(
        self, model: nn.Module, path: str, settings: Settings, ema: Mapping[str, Any]
    ) -> None:
        student = settings.student or self._student_of(model, path)
        if not isinstance(student, str):
            raise OptionError(
                f'student must be one name for the teacher {path!r}, got {settings.student!r}'
            )
        self.model, self.path = model, path
        self.module = submodule('teacher', model, path)
        self.student: nn.Module = submodule('student', model, student)
        self.follows = {'': student}
        # Each is published as the model itself.
        self.parts, self.student_path = {path: ''}, student

    def install(self, updater: Updater) -> None:
        """Stop training the teacher, except for what it shares with its student."""
        shared = {id(parameter) for parameter in self.student.parameters()}
        for parameter in self.module.parameters():
            if id(parameter) not in shared:
                parameter.requires_grad_(False)

    def check_start(self) -> None:
        """Raise OptionError if the teacher looks pretrained, as in a distillation.

        Called at the start of a new run, unless an option names the teacher. A teacher is taken for
        pretrained if a tensor that is constant in a new student, such as the weight of a norm, is
        not the same constant in the teacher.
        """
        student = named_tensors(self.student)
        for name, teacher in named_tensors(self.module).items():
            if teacher.is_floating_point() and _looks_pretrained(teacher, student[name]):
                raise OptionError(
                    f'kind must be set, since {self.path!r} of {type(self.model).__name__} looks '
                    f'pretrained: it does not start like {self.follows[""]!r} ({name!r} differs); '
                    f"kind='pair' replaces it by its student and updates it, kind='shadow' leaves "
                    f'it unchanged and updates a copy of the whole model'
                )

    @property
    def cautions(self) -> Sequence[str]:
        """That the student, and not this teacher, makes the pseudo-labels."""
        if getattr(self.model, 'labeller', None) == 'student':
            return [
                f"{type(self.model).__name__} has labeller='student', so its teacher makes no "
                f'pseudo-labels, and the smoothing changes only what is evaluated'
            ]
        return []

    def _student_of(self, model: nn.Module, path: str) -> str:
        """The student next to a teacher: by its name, or by its shape."""
        known = dict(self._pairs(model))
        if path in known:
            return known[path]
        similar = siblings_like(model, path, submodule('teacher', model, path))
        if len(similar) != 1:
            names = ', '.join(map(repr, similar)) or 'no module'
            raise OptionError(
                f'student must be set for the teacher {path!r}: {names} in {type(model).__name__} '
                f'has the same tensors'
            )
        return similar[0]


def _looks_pretrained(teacher: Tensor, student: Tensor) -> bool:
    """Whether only one of two tensors is constant, or both are, with different values.

    If only the student was loaded, their vectors may differ.
    """
    if teacher is student or teacher.is_meta or teacher.numel() < 2:
        return False
    if _is_constant(student):
        return not _is_constant(teacher) or bool(teacher.flatten()[0] != student.flatten()[0])
    return teacher.dim() > 1 and _is_constant(teacher)


def _is_constant(tensor: Tensor) -> bool:
    first = tensor[(0,) * tensor.dim()]
    return bool((tensor == first).all())
