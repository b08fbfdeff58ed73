# SPDX-License-Identifier: Apache-2.0
"""A teacher outside the model: the copy of it that an ``EMAHook`` would keep."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Optional, Union

import torch
from mmengine.runner.checkpoint import weights_to_cpu
from torch import Tensor, nn

from se_mm.engine.teachers.base import TEACHERS, Teacher, submodule
from se_mm.engine.teachers.method import own_update
from se_mm.models import SmoothedModel
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.units import pair_modules


@TEACHERS.register_module()
class Shadow(Teacher):
    """A copy of the whole model, beside it. Every model can have one.

    It is evaluated by changing places with the model's own values, and saved as mmengine's
    ``EMAHook`` does: the teacher as ``state_dict``, the student in ``ema_state_dict``.
    """

    kind = 'shadow'
    default_momentum = 0.0002
    updated_by_model = False

    @classmethod
    def candidates(cls, model: nn.Module) -> list[str]:
        """The one that any model has, which has no name in it."""
        return ['']

    def __init__(
        self, model: nn.Module, path: str, student: Union[str, Sequence[str], None]
    ) -> None:
        if student is not None:
            raise OptionError(
                f'student={student!r} is not allowed: {type(model).__name__} holds nothing '
                f'averaged, so the teacher is a copy of the whole model. Leave student out.'
            )
        own = own_update(model)
        if own:
            raise OptionError(
                f'{type(model).__name__} moves a teacher of its own by {own}(), which is not '
                f'supported: of such models, those whose teacher is the attribute `teacher` are.'
            )
        self.path = path
        self.student = model
        self._copy = deepcopy(model).requires_grad_(False)
        self._swapped = False
        self.parameters, self.buffers = pair_modules(self._copy, model)

    def __str__(self) -> str:
        return f'a copy of the model ({self.kind}) follows {type(self.student).__name__}'

    @property
    def caution(self) -> Optional[str]:
        """That a module named ``teacher``, as a distillation has, is not the one that is moved."""
        if getattr(self.student, 'teacher', None) is None:
            return None
        return (
            f'{type(self.student).__name__} has a teacher of its own, which stays as it is: what '
            f'this hook moves is a copy of the whole model.'
        )

    def install(self) -> SmoothedModel:
        """Make the copy the teacher."""
        device = next(self._copy.parameters()).device
        self.smoothed = SmoothedModel(self._copy, torch.tensor(0, device=device))
        return self.smoothed

    def module(self, who: str, layer: str) -> nn.Module:
        """A layer of the model or of the copy, whichever now has the values asked for."""
        in_model = (who == 'student') != self._swapped
        return submodule('layer', self.student if in_model else self._copy, layer)

    def swap(self) -> None:
        """Let teacher and student change places, with all their values."""
        with torch.no_grad():
            for pair in (*self.parameters, *self.buffers):
                kept = pair.teacher.clone()
                pair.teacher.copy_(pair.student)
                pair.student.copy_(kept)
        self._swapped = not self._swapped

    def save(self, checkpoint: dict) -> None:
        """Write the teacher where a checkpoint has its model, and the student beside it."""
        student = checkpoint['state_dict']
        checkpoint['state_dict'] = weights_to_cpu(self._copy.state_dict())
        checkpoint['ema_state_dict'] = {
            'steps': self.smoothed.steps.cpu(),
            **{f'module.{name}': value for name, value in student.items()},
        }

    def load(self, checkpoint: dict, keep_student: bool, whole: bool = False) -> bool:
        """Take the teacher out of a checkpoint, and leave in it what the model is to load.

        Args:
            checkpoint: Of our hook, of ``EMAHook``, or of a run without a shadow.
            keep_student: Whether the model is to get the student's weights where there are some;
                otherwise it gets the teacher's, as from a published checkpoint.
            whole: Whether all of the teacher must be there.

        Returns:
            Whether the checkpoint held a student beside the teacher.

        Raises:
            OptionError: If something of the teacher is missing.
        """
        teacher: dict[str, Tensor] = checkpoint['state_dict']
        student = checkpoint.get('ema_state_dict')
        problems = self._copy.load_state_dict(teacher, strict=False)
        if student is None:
            return False
        if whole and problems.missing_keys:
            raise OptionError(
                f'the teacher in the checkpoint lacks {problems.missing_keys[0]!r}: it is of '
                f'another model, or damaged.'
            )
        self.smoothed.step = int(student['steps'])
        if keep_student:
            checkpoint['state_dict'] = {
                name[len('module.') :]: value for name, value in student.items() if name != 'steps'
            }
        return True
