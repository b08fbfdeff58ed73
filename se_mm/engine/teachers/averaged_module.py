# SPDX-License-Identifier: Apache-2.0
"""A teacher that is an averaged model inside the model: BYOL, MoCo, MoCo v3, DenseCL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

from mmengine.model import BaseAveragedModel
from torch import nn

from se_mm.engine.teachers.base import (
    TEACHERS,
    Teacher,
    only_sibling,
    siblings_like,
    signature,
    submodule,
)
from se_mm.engine.teachers.inherited_average import inherited_average
from se_mm.models import SmoothedModel
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.rules import AverageFunction
from se_mm.smoothing.schedules import Schedule
from se_mm.smoothing.units import pair_modules


@TEACHERS.register_module()
class AveragedModule(Teacher):
    """A submodule that is a :class:`mmengine.model.BaseAveragedModel`.

    The model itself asks for its updates, by ``update_parameters(student)``. What it passes there
    is made in its forward, so the student is found by its shape: the sibling, or for a sequence the
    siblings, with the class and the tensors of what is averaged.
    """

    kind = 'averaged module'
    default_momentum = 0.0002
    updated_by_model = True

    @classmethod
    def candidates(cls, model: nn.Module) -> list[str]:
        """Dotted names of the averaged models in ``model``, without those inside another."""
        paths: list[str] = []
        for path, module in model.named_modules():
            inside = any(path.startswith(outer + '.') for outer in paths)
            if path and isinstance(module, BaseAveragedModel) and not inside:
                paths.append(path)
        return paths

    def __init__(
        self, model: nn.Module, path: str, student: Union[str, Sequence[str], None]
    ) -> None:
        self.path = path
        self._model = model
        self._stock: BaseAveragedModel = model.get_submodule(path)
        self._parent, _, self._attribute = path.rpartition('.')
        # Prefix in the teacher -> prefix in the model, one for each part of the student.
        self._prefixes = self._find_student() if student is None else self._named_student(student)
        self.parameters, self.buffers = pair_modules(self._stock.module, model, self._to_student)

    def __str__(self) -> str:
        return f'{self.path} ({self.kind}) follows {", ".join(self._prefixes.values())}'

    def install(self) -> SmoothedModel:
        """Put a smoothed model in its place, with the same module and count of updates."""
        smoothed = SmoothedModel(self._stock.module, self._stock.steps, self._stock.interval)
        smoothed.train(self._stock.training)
        setattr(self._model.get_submodule(self._parent), self._attribute, smoothed)
        return smoothed

    def inherited_average(self) -> Union[Schedule, AverageFunction]:
        """The averaging of the stock averaged model."""
        return inherited_average(self._stock)

    def module(self, who: str, layer: str) -> nn.Module:
        """A layer of the student's, or its counterpart in the teacher."""
        student = submodule('layer', self._model, layer)
        if who == 'student':
            return student
        for inner, outer in self._prefixes.items():
            if layer == outer or layer.startswith(outer + '.'):
                path = (inner + layer[len(outer) :]).lstrip('.')
                return self._stock.module.get_submodule(path)
        raise OptionError(
            f'layer={layer!r} has no counterpart in the teacher {self.path!r}: one of, or a part '
            f'of one of, {", ".join(repr(outer) for outer in self._prefixes.values())}.'
        )

    def _to_student(self, name: str) -> str:
        """Name in the model of the student's tensor, from the teacher's."""
        if '' in self._prefixes:
            return f'{self._prefixes[""]}.{name}'
        inner, _, rest = name.partition('.')
        return f'{self._prefixes.get(inner, inner)}.{rest}'

    def _named_student(self, student: Union[str, Sequence[str]]) -> dict[str, str]:
        """The prefixes that the option ``student`` says."""
        names = [student] if isinstance(student, str) else list(student)
        for name in names:
            submodule('student', self._model, name)
        if isinstance(student, str):
            return {'': student}
        parts = [inner for inner, _ in self._stock.module.named_children()]
        if len(names) != len(parts):
            raise OptionError(
                f'student={names!r} has {len(names)} parts: {len(parts)} are allowed, as many as '
                f'{self.path!r} has.'
            )
        return dict(zip(parts, names))

    def _find_student(self) -> dict[str, str]:
        """The prefixes by shape: of one sibling, else of one for each part of a sequence."""
        averaged = self._stock.module
        whole = siblings_like(self._model, self.path, averaged)
        if whole or not isinstance(averaged, nn.Sequential):
            return {'': only_sibling(self._model, self.path, averaged)}
        return {
            inner: only_sibling(self._model, self.path, part)
            for inner, part in averaged.named_children()
            if signature(part)
        }
