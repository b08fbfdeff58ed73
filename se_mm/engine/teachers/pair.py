# SPDX-License-Identifier: Apache-2.0
"""A teacher that lies in the model beside its student: FixMatch, SoftTeacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Union

import torch
from mmengine.model import BaseAveragedModel
from torch import nn

from se_mm.engine.teachers.base import TEACHERS, Teacher, submodule
from se_mm.models import SmoothedModel
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.units import pair_modules


@TEACHERS.register_module()
class Pair(Teacher):
    """The submodule ``teacher`` of a model that has a ``student`` too.

    mmdet's ``SemiBaseDetector`` is such a model, and so is every semi-supervised classifier of
    ours. The state dict of the model has both, and no count of the updates: that one is kept in the
    record of the hook.
    """

    kind = 'pair'
    default_momentum = 0.001
    updated_by_model = False
    taught_from_start = True
    saved_with_steps = False

    @classmethod
    def candidates(cls, model: nn.Module) -> list[str]:
        """``teacher``, if the model has both and the teacher is no averaged model."""
        teacher, student = getattr(model, 'teacher', None), getattr(model, 'student', None)
        both = isinstance(teacher, nn.Module) and isinstance(student, nn.Module)
        return ['teacher'] if both and not isinstance(teacher, BaseAveragedModel) else []

    def __init__(
        self, model: nn.Module, path: str, student: Union[str, Sequence[str], None]
    ) -> None:
        student = 'student' if student is None else student
        if not isinstance(student, str):
            raise OptionError(
                f'student={student!r} is not allowed: the teacher {path!r} follows one module, '
                f"'student' unless another is named."
            )
        self.path = path
        self.student = submodule('student', model, student)
        self._model = model
        self._student_path = student
        self._teacher: nn.Module = model.get_submodule(path)
        self.parameters, self.buffers = pair_modules(
            self._teacher, model, lambda name: f'{student}.{name}'
        )

    def __str__(self) -> str:
        return f'{self.path} ({self.kind}) follows {self._student_path}'

    def install(self) -> SmoothedModel:
        """Make a smoothed model of the teacher, beside the model."""
        self._teacher.requires_grad_(False)
        device = next(self._teacher.parameters()).device
        return SmoothedModel(self._teacher, torch.tensor(0, device=device))

    def module(self, who: str, layer: str) -> nn.Module:
        """A layer of the student's, or the teacher's of the same name."""
        student = submodule('layer', self._model, layer)
        if who == 'student':
            return student
        prefix = self._student_path
        if layer != prefix and not layer.startswith(prefix + '.'):
            raise OptionError(
                f'layer={layer!r} has no counterpart in the teacher {self.path!r}: {prefix!r} or a '
                f'part of it.'
            )
        return self._model.get_submodule(self.path + layer[len(prefix) :])

    @property
    def caution(self) -> Optional[str]:
        """That the teacher teaches nothing, where the model says so by ``labeller``."""
        if getattr(self._model, 'labeller', 'teacher') == 'teacher':
            return None
        return (
            f"{type(self._model).__name__} has labeller='student', so the teacher labels nothing, "
            f'and its smoothing changes only what is evaluated.'
        )
