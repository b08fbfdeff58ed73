# SPDX-License-Identifier: Apache-2.0
"""A teacher that its model moves by a method of its own: CAE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Optional, Union

from torch import nn

from se_mm.engine.teachers.base import TEACHERS, only_sibling
from se_mm.engine.teachers.pair import Pair
from se_mm.models import SmoothedModel
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.schedules import Schedule, constant

_METHODS = ('momentum_update', '_momentum_update')
# Those whose own update moves the teacher to the student by a share that is known: the attribute
# that has the share of the OLD value.
_OLD_SHARES = {'mmpretrain.models.selfsup.cae.CAE': 'momentum'}


def own_update(model: nn.Module) -> Optional[str]:
    """Name of the method by which a model moves a teacher itself; None if it has none."""
    return next((name for name in _METHODS if callable(getattr(model, name, None))), None)


@TEACHERS.register_module()
class Method(Pair):
    """The submodule ``teacher`` of a model that moves it by its method ``momentum_update``.

    The model asks for its updates by that method, which is replaced. The student is found by its
    shape.
    """

    kind = 'method'
    updated_by_model = True

    @classmethod
    def candidates(cls, model: nn.Module) -> list[str]:
        """``teacher``, if the model has it, no ``student``, and a method that moves it."""
        alone = isinstance(getattr(model, 'teacher', None), nn.Module)
        return ['teacher'] if alone and own_update(model) and not Pair.candidates(model) else []

    def __init__(
        self, model: nn.Module, path: str, student: Union[str, Sequence[str], None]
    ) -> None:
        if student is None:
            student = only_sibling(model, path, model.get_submodule(path))
        super().__init__(model, path, student)

    def install(self) -> SmoothedModel:
        """Let the model's method ask a smoothed model for the update."""
        smoothed = super().install()
        setattr(self._model, own_update(self._model), partial(_update, smoothed, self.student))
        return smoothed

    def inherited_average(self) -> Schedule:
        """The momentum of the model's own update, where it is known."""
        for kind in type(self._model).__mro__:
            attribute = _OLD_SHARES.get(f'{kind.__module__}.{kind.__qualname__}')
            if attribute:
                return Schedule(constant, {'value': 1 - getattr(self._model, attribute)})
        raise OptionError(
            f'momentum=None cannot be inherited: {type(self._model).__name__} moves its teacher by '
            f'a method of its own. Give a number in (0, 1] or a schedule.'
        )


def _update(smoothed: SmoothedModel, student: nn.Module, *_: object, **__: object) -> None:
    """What takes the place of the model's method."""
    smoothed.update_parameters(student)
