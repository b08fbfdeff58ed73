# SPDX-License-Identifier: Apache-2.0
"""A teacher outside the model: the copy of an ``EMAHook``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from se_mm.smoothing.options import OptionError, did_you_mean
from se_mm.smoothing.settings import COPY, Settings
from se_mm.teachers.averaged import Averaged
from se_mm.teachers.base import TEACHERS, Teacher, submodule
from se_mm.teachers.method import own_method
from se_mm.teachers.pair import Pair

if TYPE_CHECKING:
    from se_mm.teachers.updater import Updater

# For suggestions: the names in configs of each library.
_KNOWN = (
    'ExponentialMovingAverage',
    'MomentumAnnealingEMA',
    'StochasticWeightAverage',
    'mmdet.ExpMomentumEMA',
    'mmpretrain.CosineEMA',
)


@TEACHERS.register_module('shadow')
class Shadow(Teacher):
    """A copy of the whole model. Every model can have one.

    MMEngine's own ``EMAHook`` makes, saves and loads it. It is evaluated as there: teacher and
    student swap their values.
    """

    kind = 'shadow'
    fallback = True
    default_momentum = 0.0002
    updated_by_model = False
    averaged: BaseAveragedModel

    @classmethod
    def candidates(cls, model: nn.Module, settings: Settings) -> list[str]:
        """The copy, which has no name in the model."""
        return ['']

    def __init__(
        self, model: nn.Module, path: str, settings: Settings, ema: Mapping[str, Any]
    ) -> None:
        for name in ('teacher', 'student', 'update_method'):
            if getattr(settings, name) is not None:
                raise OptionError(
                    f'{name} must not be set for a copy of the model, whose student is the whole '
                    f'{type(model).__name__}, got {getattr(settings, name)!r}: remove it, or name '
                    f'both teacher= and student= in the model'
                )
        self.model, self.path = model, path
        self.student: nn.Module = model
        self.follows = {'': ''}
        # A checkpoint has the teacher as its model, and the student under another key.
        self.parts = {}
        self._settings = settings
        self._hook = _stock_hook(model, ema)
        self.averaged = self._hook.ema_model
        self.module = self.averaged.module
        self._swapped: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __str__(self) -> str:
        return f'a copy of the model ({self.kind}) follows {type(self.student).__name__}'

    def find(self, who: str, layer: str) -> nn.Module:
        """A layer of the model or of the copy, whichever now has the values of ``who``."""
        in_model = (who == 'student') != bool(self._swapped)
        return submodule('layer', self.student if in_model else self.module, layer)

    @property
    def cautions(self) -> Sequence[str]:
        """That the model has a teacher inside, which this hook does not update."""
        own = [
            repr(path)
            for kind in (Averaged, Pair)
            for path in kind.candidates(self.model, self._settings)
        ]
        if isinstance(getattr(self.model, 'teacher', None), nn.Module):
            own = own or ["'teacher'"]
        if own:
            what = f'has a teacher of its own, {", ".join(own)}'
        elif own_method(self.model):
            what = f'may update a teacher by {own_method(self.model)}()'
        else:
            return []
        return [
            f'{type(self.model).__name__} {what}, which this hook leaves unchanged: it updates a '
            f'copy of the whole model'
        ]

    def swap(self, updater: Updater) -> None:
        """Swap the values of teacher and student.

        Buffers that are copied stay: the student may have written new values. Recalibrated ones are
        swapped.
        """
        smoother = updater.smoother
        smoother.refresh(self.student)
        self._swapped = [
            (pair.teacher, pair.student)
            for member, pair in smoother.pairs.items()
            if member.is_parameter
            or member.rule != COPY
            or member.name in updater.training_statistics
        ]
        _exchange(self._swapped)

    def swap_back(self) -> None:
        """Undo :meth:`swap`, if the values are swapped."""
        _exchange(self._swapped)
        self._swapped = []

    def save(self, runner: Runner, checkpoint: dict) -> None:
        """Save the teacher as the checkpoint's model, and the student under another key."""
        self._hook.before_save_checkpoint(runner, checkpoint)

    def resume(self, runner: Runner, checkpoint: dict) -> None:
        """Load the teacher of a checkpoint, and leave in it what the model is to load."""
        self._hook.after_load_checkpoint(runner, checkpoint)

    def load_both(self, checkpoint: dict) -> None:
        """The same for a run that only evaluates, as tolerant as MMEngine's loading."""
        self._hook._swap_ema_state_dict(checkpoint)
        teacher = {
            name.removeprefix('module.'): value
            for name, value in checkpoint['ema_state_dict'].items()
            if name.startswith('module.')
        }
        load_state_dict(self.module, teacher, strict=False)


@torch.no_grad()
def _exchange(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for one, other in pairs:
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)


def _stock_hook(model: nn.Module, ema: Mapping[str, Any]) -> EMAHook:
    """Make an ``EMAHook`` with its averaged model of ``model``."""
    from se_mm.models import SmoothedModel

    name = ema.get('ema_type', 'ExponentialMovingAverage')
    kind = name
    if isinstance(name, str):
        with MODELS.switch_scope_and_registry(None) as models:  # mmdet's, in a config of mmdet.
            kind = models.get(name)
    if not (isinstance(kind, type) and issubclass(kind, BaseAveragedModel)):
        raise OptionError(
            f'ema_type must be an averaged model such as ExponentialMovingAverage, got {name!r}.'
            f'{did_you_mean(name, _KNOWN)}'
        )
    if issubclass(kind, SmoothedModel):
        raise OptionError(
            f'ema_type must not be an averaged model of se_mm, got {name!r}: remove it, or use '
            f"type='EMAHook'"
        )
    hook = EMAHook(**{**ema, 'ema_type': kind})
    try:
        hook.before_run(SimpleNamespace(model=model))
    except (TypeError, AssertionError, ValueError) as error:
        options = ', '.join(f'{key}={value!r}' for key, value in ema.items() if key != 'ema_type')
        reason = ' '.join(str(error).split())
        raise OptionError(f'{kind.__name__} does not take {options}: {reason}') from error
    return hook
