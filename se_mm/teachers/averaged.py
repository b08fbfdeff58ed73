# SPDX-License-Identifier: Apache-2.0
"""A teacher that is an averaged model inside the model: BYOL, MoCo, MoCo v3, DenseCL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseAveragedModel
from torch import nn

from se_mm.smoothing.options import OptionError
from se_mm.smoothing.settings import Settings
from se_mm.teachers.base import TEACHERS, Teacher, siblings_like, signature, submodule


@TEACHERS.register_module('averaged')
class Averaged(Teacher):
    """A submodule that is a :class:`mmengine.model.BaseAveragedModel`.

    The model triggers the updates by ``update_parameters(student)``. Only this method of the
    instance is replaced. Models often build the argument for the call, so the student is also
    found beforehand by its shape, for names and checks: it is the sibling with the same tensors,
    or for a sequence one sibling for each part.
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
        self.follows = self._students(settings.student)
        self.parts = {
            f'{path}.module.{part}'.rstrip('.'): student for part, student in self.follows.items()
        }
        students = {part: submodule('student', model, name) for part, name in self.follows.items()}
        self.student = students.get('')
        if students and self.student is None:
            children = self.module.named_children()
            self.student = nn.Sequential(*[students.get(name, part) for name, part in children])

    def _students(self, named: str | Sequence[str] | None) -> dict[str, str]:
        """Name of each part of the teacher, '' for the whole, -> its student's name.

        ``named`` is the option ``student``. Without it, students are found by shape; the result is
        empty if they are not next to the teacher.
        """
        if isinstance(named, str):
            return {'': named}
        parts = dict(self.module.named_children())
        if named is not None:
            if len(named) != len(parts):
                raise OptionError(
                    f'student must name {len(parts)} modules, one for each part of '
                    f'{self.path!r}, got {list(named)!r}'
                )
            return dict(zip(parts, named))
        similar = {'': siblings_like(self.model, self.path, self.module)}
        if not similar[''] and isinstance(self.module, nn.Sequential):
            similar = {
                name: siblings_like(self.model, self.path, part)
                for name, part in parts.items()
                if signature(part)
            }
        if not all(similar.values()):
            return {}
        for names in similar.values():
            if len(names) > 1:
                raise OptionError(
                    f'student must be set for the teacher {self.path!r}, since '
                    f'{", ".join(map(repr, names))} have the same tensors; set it to one of them, '
                    f'or to a list with one for each part'
                )
        return {part: names[0] for part, names in similar.items()}
