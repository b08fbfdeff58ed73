# SPDX-License-Identifier: Apache-2.0
"""A teacher that its model updates by its own method: CAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

from mmengine.model import BaseAveragedModel
from torch import nn

from se_mm.smoothing.options import OptionError
from se_mm.smoothing.schedules import Schedule, constant
from se_mm.smoothing.settings import Settings
from se_mm.teachers.base import TEACHERS
from se_mm.teachers.pair import Pair

if TYPE_CHECKING:
    from se_mm.teachers.updater import Updater

METHODS = (
    'momentum_update',
    '_momentum_update',
    'ema_update',
    '_ema_update',
    'update_teacher',
    '_update_teacher',
)
# Models whose update has a known momentum: the attribute with the weight of the OLD value.
_OLD_WEIGHTS = {'mmpretrain.models.selfsup.cae.CAE': 'momentum'}


def own_method(model: nn.Module, name: Optional[str] = None) -> Optional[str]:
    """Name of the method by which a model updates a teacher, or None.

    ``name`` is the option ``update_method``, which the model must have.
    """
    if name is not None and not callable(getattr(model, name, None)):
        raise OptionError(f'update_method must be a method of {type(model).__name__}, got {name!r}')
    return name or next((n for n in METHODS if callable(getattr(model, n, None))), None)


@TEACHERS.register_module('method')
class Method(Pair):
    """The submodule ``teacher`` of a model with a method such as ``momentum_update``.

    The model triggers the updates by this method, which is replaced in the instance. The student is
    the submodule ``student``, or found by its shape.
    """

    kind = 'method'
    updated_by_model = True

    @classmethod
    def candidates(cls, model: nn.Module, settings: Settings) -> list[str]:
        """``teacher``, if the model has it and a method that updates it."""
        if own_method(model, settings.update_method) is None:
            return []
        path = settings.teacher or 'teacher'
        # If it is an averaged model, the method calls its update.
        module = dict(model.named_modules()).get(path)
        return [] if module is None or isinstance(module, BaseAveragedModel) else [path]

    def __init__(
        self, model: nn.Module, path: str, settings: Settings, ema: Mapping[str, Any]
    ) -> None:
        super().__init__(model, path, settings, ema)
        self._method = own_method(model, settings.update_method)
        # The student is the model without its teacher.
        self.parts, self.student_path = {path: self.follows['']}, ''

    def install(self, updater: Updater) -> None:
        """Replace the model's method, in this instance."""
        super().install(updater)
        vars(self.model)[str(self._method)] = updater

    @property
    def momentum(self) -> Schedule:
        """The momentum of the model's own update, if it is known."""
        for kind in type(self.model).__mro__:
            attribute = _OLD_WEIGHTS.get(f'{kind.__module__}.{kind.__qualname__}')
            if attribute:
                return Schedule(constant, {'value': 1 - getattr(self.model, attribute)})
        raise OptionError(
            f'momentum must be set, since {type(self.model).__name__} updates its teacher by its '
            f'own method {self._method}()'
        )
