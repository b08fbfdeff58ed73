# SPDX-License-Identifier: Apache-2.0
"""A teacher that is an averaged model inside the model: BYOL, MoCo, MoCo v3, DenseCL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from mmengine.model import BaseAveragedModel
from torch import nn

from se_mm.smoothing.options import OptionError
from se_mm.smoothing.settings import Settings
from se_mm.teachers.base import TEACHERS, Teacher, siblings_like, signature, submodule

if TYPE_CHECKING:
    from se_mm.teachers.mover import Mover


@TEACHERS.register_module('averaged')
class Averaged(Teacher):
    """A submodule that is a :class:`mmengine.model.BaseAveragedModel`.

    The model asks for its updates by ``update_parameters(student)``. The averaged model stays the
    object it is; only that method of the instance is replaced. What the model passes there is often
    made on the spot, so the student is found beforehand by its shape, for names and checks: the
    sibling, or for a sequence the siblings, with the tensors of what is averaged.
    """

    kind = 'averaged'
    default_momentum = 0.0002
    updated_by_model = True
    averaged: BaseAveragedModel

    @classmethod
    def candidates(cls, model: nn.Module, settings: Settings) -> list[str]:
        """Dotted names of the averaged models in ``model``, without those inside another."""
        paths: list[str] = []
        for path, module in model.named_modules():
            inside = any(path.startswith(outer + '.') for outer in paths)
            if path and isinstance(module, BaseAveragedModel) and not inside:
                paths.append(path)
        return paths

    def __init__(
        self, model: nn.Module, path: str, settings: Settings, ema: Mapping[str, Any]
    ) -> None:
        self.path = path
        self._model = model
        self.averaged = model.get_submodule(path)
        self.module = self.averaged.module
        # Name of a part in the teacher -> its name in the model; '' is the whole.
        self._names = self._named(settings.student) if settings.student else self._found()
        self.student = self._student()

    def __str__(self) -> str:
        students = ', '.join(self._names.values()) or 'what its model passes to update_parameters'
        return f'{self.path} ({self.kind}) follows {students}'

    def install(self, mover: Mover) -> None:
        """Put our update into the instance, in place of its own."""
        vars(self.averaged)['update_parameters'] = mover

    def find(self, who: str, layer: str) -> nn.Module:
        """A layer of the student's, or its counterpart in the teacher."""
        student = submodule('layer', self._model, layer)
        if who == 'student':
            return student
        for inner, outer in self._names.items():
            if layer == outer or layer.startswith(outer + '.'):
                path = (inner + layer[len(outer) :]).lstrip('.')
                return self.module.get_submodule(path)
        raise OptionError(
            f'layer must be in the student of {self.path!r}, that is in '
            f'{", ".join(repr(outer) for outer in self._names.values())}, got {layer!r}'
        )

    @property
    def parts(self) -> Mapping[str, str]:
        """Dotted name of each part of the teacher in a checkpoint -> its name when published."""
        folder = f'{self.path}.module'
        return {f'{folder}.{inner}'.rstrip('.'): outer for inner, outer in self._names.items()}

    def student_name(self, inner: str) -> str:
        """Name of the student's tensor in the model, from the name in the teacher's module."""
        if '' in self._names:
            return f'{self._names[""]}.{inner}'
        part, _, rest = inner.partition('.')
        return f'{self._names[part]}.{rest}' if part in self._names else inner

    def _student(self) -> Optional[nn.Module]:
        """The student in the teacher's structure."""
        modules = {inner: self._model.get_submodule(name) for inner, name in self._names.items()}
        if '' in modules:
            return modules['']
        if not modules:
            return None
        return nn.Sequential(*[modules.get(n, part) for n, part in self.module.named_children()])

    def _named(self, student: str | Sequence[str]) -> dict[str, str]:
        """The names that the option ``student`` gives."""
        names = [student] if isinstance(student, str) else list(student)
        for name in names:
            submodule('student', self._model, name)
        if isinstance(student, str):
            return {'': student}
        parts = [inner for inner, _ in self.module.named_children()]
        if len(names) != len(parts):
            raise OptionError(
                f'student must name {len(parts)} modules, as many as {self.path!r} has parts, got '
                f'{names!r}'
            )
        return dict(zip(parts, names))

    def _found(self) -> dict[str, str]:
        """The names by shape: of one sibling, else of one for each part of a sequence.

        None where the student is not among the siblings: the model's call will tell.
        """
        whole = siblings_like(self._model, self.path, self.module)
        if whole:
            return {'': self._only(whole)}
        if not isinstance(self.module, nn.Sequential):
            return {}
        found = {
            inner: siblings_like(self._model, self.path, part)
            for inner, part in self.module.named_children()
            if signature(part)
        }
        if not all(found.values()):
            return {}
        return {inner: self._only(names) for inner, names in found.items()}

    def _only(self, names: Sequence[str]) -> str:
        if len(names) > 1:
            raise OptionError(
                f'student must be set for the teacher {self.path!r}: {", ".join(map(repr, names))} '
                f'are all like it; give one of them, or a list with one for each part'
            )
        return names[0]
