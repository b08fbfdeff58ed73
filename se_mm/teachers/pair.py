# SPDX-License-Identifier: Apache-2.0
"""A teacher that is in the model beside its student: FixMatch, SoftTeacher."""

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
    from se_mm.teachers.mover import Mover


@TEACHERS.register_module('pair')
class Pair(Teacher):
    """Submodules ``teacher`` and ``student`` with the same tensors, in the model or one level down.

    The student may have more, as a predictor.

    mmdet's ``SemiBaseDetector`` has them, and so has every semi-supervised classifier of ours. The
    options ``teacher`` and ``student`` name others. A model's state dict has both, and no count of
    the updates: the hook's record keeps it.

    Attributes:
        names: Names of the two submodules.
    """

    kind = 'pair'
    names: ClassVar[tuple[str, str]] = ('teacher', 'student')
    default_momentum = 0.001
    updated_by_model = False
    taught_from_start = True
    saved_with_steps = False

    @classmethod
    def candidates(cls, model: nn.Module, settings: Settings) -> list[str]:
        """Dotted names of the teachers that have a student beside them."""
        return [path for path, _ in cls._pairs(model)]

    @classmethod
    def _pairs(cls, model: nn.Module) -> Iterator[tuple[str, str]]:
        """Dotted names of teacher and student."""
        for folder, module in [('', model), *model.named_children()]:
            found = [getattr(unwrapped(module), name, None) for name in cls.names]
            modules = [m for m in found if isinstance(m, nn.Module)]
            averages = any(isinstance(m, BaseAveragedModel) for m in modules)
            if len(modules) < 2 or averages:
                continue
            theirs, own = (signature(m) for m in modules)
            if theirs and theirs.items() <= own.items():  # A student may have more.
                teacher, student = (f'{folder}.{name}'.lstrip('.') for name in cls.names)
                yield teacher, student

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

    def install(self, mover: Mover) -> None:
        """Take the teacher out of the training. What it shares with its student stays trained."""
        shared = {id(parameter) for parameter in self.student.parameters()}
        for parameter in self.module.parameters():
            if id(parameter) not in shared:
                parameter.requires_grad_(False)

    def check_start(self) -> None:
        """Check that the teacher is not one that was trained before, as for a distillation.

        To be called with the weights of a new run, for a teacher that no option names. A teacher to
        be averaged starts like its student; one that was loaded is told by tensors that have one
        value throughout in a new student, such as those of norms, and others in the teacher.
        """
        student = named_tensors(self.student)
        for name, teacher in named_tensors(self.module).items():
            if teacher.is_floating_point() and _begins_otherwise(teacher, student[name]):
                raise OptionError(
                    f'kind must be set, since {self.path!r} of {type(self.model).__name__} does '
                    f'not start like {self.follows[""]!r} ({name!r} differs), as if it were '
                    f"trained before: kind='pair' moves it, starting from its student; "
                    f"kind='shadow' leaves it as it is and moves a copy of the whole model"
                )

    @property
    def cautions(self) -> Sequence[str]:
        """Where the teacher may not be what the hook takes it for."""
        if getattr(self.model, 'labeller', None) == 'student':
            return [
                f"{type(self.model).__name__} has labeller='student', so its teacher makes no "
                f'pseudo-labels, and the smoothing changes only what is evaluated'
            ]
        return []

    def _student_of(self, model: nn.Module, path: str) -> str:
        """The student beside a teacher: by its name, else by its shape."""
        known = dict(self._pairs(model))
        found = [known[path]] if path in known else []
        found = found or siblings_like(model, path, submodule('teacher', model, path))
        if len(found) != 1:
            raise OptionError(
                f'student must be set for the teacher {path!r}: '
                f'{", ".join(map(repr, found)) or "nothing"} in {type(model).__name__} is like it'
            )
        return found[0]


def _begins_otherwise(teacher: Tensor, student: Tensor) -> bool:
    """Whether only one of two tensors has a single value, or both have another one.

    A student that was loaded while its teacher is new is no sign: their vectors may differ.
    """
    if teacher is student or teacher.is_meta or teacher.numel() < 2:
        return False
    if _is_constant(student):
        return not _is_constant(teacher) or bool(teacher.flatten()[0] != student.flatten()[0])
    return teacher.dim() > 1 and _is_constant(teacher)


def _is_constant(tensor: Tensor) -> bool:
    first = tensor[(0,) * tensor.dim()]
    return bool((tensor == first).all())
