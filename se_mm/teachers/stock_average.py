# SPDX-License-Identifier: Apache-2.0
"""The average of a stock averaged model of any class, as a function of the update step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import torch
from mmengine.model import BaseAveragedModel
from torch import Tensor

from se_mm.smoothing.schedules import (
    Schedule,
    annealed,
    constant,
    cosine,
    exp_annealed,
    running_mean,
)
from se_mm.smoothing.settings import Average

_OLD = torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=torch.float64)
_NEW = torch.tensor([1.0, 0.0, 3.0, 0.5], dtype=torch.float64)


class StockAverage:
    """How an averaged model averages at an update, measured by calling its own ``avg_func``.

    If this function averages probe numbers by one weight, the weight is the result, and all tensors
    can be updated at once. The momentum may depend on the step or be set from outside. Any other
    function is called with the tensors themselves.
    """

    def __init__(self, averaged: BaseAveragedModel) -> None:
        self._averaged = averaged
        self._by_weight: Optional[bool] = None

    def __call__(self, step: int) -> Average:
        """The weight of the student's value at an update, or the function that averages."""
        # If the count were on a GPU, the host would wait for it at every call.
        steps = torch.tensor(step)
        averaged = _with_steps(self._averaged, steps)
        if self._by_weight is None:
            weights = {_weight(averaged, steps, shape) for shape in _SHAPES}
            self._by_weight = len(weights) == 1 and None not in weights
        weight = _weight(averaged, steps, (4,)) if self._by_weight else None
        if weight is not None:
            return weight

        def average(teacher: Tensor, student: Tensor) -> None:
            averaged.avg_func(teacher, student, steps)

        return average

    def describe(self) -> Optional[Schedule]:
        """The present schedule of the momentum, for reports; None if unknown."""
        average = type(self._averaged).avg_func
        owner = f'{average.__module__}.{average.__qualname__.rpartition(".")[0]}'
        if owner not in _SCHEDULES:
            return None
        function, attributes = _SCHEDULES[owner]
        return Schedule(function, {n: getattr(self._averaged, a) for n, a in attributes.items()})


# An average may treat vectors, such as biases, differently.
_SHAPES = ((4,), (2, 2), (2, 2, 1), (2, 1, 2, 1))


def _weight(averaged: BaseAveragedModel, steps: Tensor, shape: tuple[int, ...]) -> Optional[float]:
    """The weight by which ``avg_func`` averages the probe numbers; None if it is not one weight."""
    probe = _OLD.clone().view(shape)
    averaged.avg_func(probe, _NEW.view(shape), steps)
    weight = float(probe.flatten()[0])  # The first number goes from 0 to 1.
    same = torch.allclose(probe.flatten(), _OLD.lerp(_NEW, weight), rtol=0, atol=1e-9)
    return weight if same and 0 <= weight <= 1 else None


def _with_steps(averaged: BaseAveragedModel, steps: Tensor) -> BaseAveragedModel:
    """The averaged model, or a view of it that has ``steps``, if its own count is on a GPU."""
    if averaged.steps.device.type == 'cpu':
        return averaged
    view: Any = object.__new__(type(averaged))
    vars(view).update(vars(averaged))
    view.__dict__['_buffers'] = {**averaged._buffers, 'steps': steps}
    return view


# Classes whose momentum has a known schedule, and the attributes with its parameters. By full name,
# since these libraries may not be installed.
_EXP = exp_annealed, {'value': 'momentum', 'gamma': 'gamma'}
_SCHEDULES: dict[str, tuple[Callable[..., float], dict[str, str]]] = {
    'mmengine.model.averaged_model.ExponentialMovingAverage': (constant, {'value': 'momentum'}),
    'mmengine.model.averaged_model.MomentumAnnealingEMA': (
        annealed,
        {'value': 'momentum', 'gamma': 'gamma'},
    ),
    'mmengine.model.averaged_model.StochasticWeightAverage': (
        running_mean,
        {'interval': 'interval'},
    ),
    'mmpretrain.models.utils.ema.CosineEMA': (cosine, {'start': 'momentum', 'end': 'end_momentum'}),
    'mmdet.models.layers.ema.ExpMomentumEMA': _EXP,
    'mmpose.engine.hooks.ema_hook.ExpMomentumEMA': _EXP,
    'mmyolo.models.layers.ema.ExpMomentumEMA': _EXP,
}
