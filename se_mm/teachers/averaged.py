# SPDX-License-Identifier: Apache-2.0
"""A teacher that is an averaged model inside the model: BYOL, MoCo, MoCo v3, DenseCL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
        self.model, self.path = model, path
        self.averaged = model.get_submodule(path)
        self.module = self.averaged.module
        self.follows = self._named(settings.student) if settings.student else self._found()
        self.parts = {
            f'{path}.module.{part}'.rstrip('.'): student for part, student in self.follows.items()
        }
        students = {part: submodule('student', model, name) for part, name in self.follows.items()}
        self.student = students.get('')
        if students and self.student is None:
            children = self.module.named_children()
            self.student = nn.Sequential(*[students.get(name, part) for name, part in children])

    def install(self, mover: Mover) -> None:
        """Put our update into the instance, in place of its own."""
        vars(self.averaged)['update_parameters'] = mover

    def _named(self, student: str | Sequence[str]) -> dict[str, str]:
        """What the option ``student`` says."""
        if isinstance(student, str):
            return {'': student}
        parts = [name for name, _ in self.module.named_children()]
        if len(student) != len(parts):
            raise OptionError(
                f'student must name {len(parts)} modules, as many as {self.path!r} has parts, got '
                f'{list(student)!r}'
            )
        return dict(zip(parts, student))

    def _found(self) -> dict[str, str]:
        """By shape: one sibling, else one for each part of a sequence.

        Empty where the student is not among the siblings: the model's call will tell.
        """
        found = {'': siblings_like(self.model, self.path, self.module)}
        if not found[''] and isinstance(self.module, nn.Sequential):
            found = {
                name: siblings_like(self.model, self.path, part)
                for name, part in self.module.named_children()
                if signature(part)
            }
        if not all(found.values()):
            return {}
        for names in found.values():
            if len(names) > 1:
                raise OptionError(
                    f'student must be set for the teacher {self.path!r}: '
                    f'{", ".join(map(repr, names))} are all like it; give one of them, or a list '
                    f'with one for each part'
                )
        return {part: names[0] for part, names in found.items()}
