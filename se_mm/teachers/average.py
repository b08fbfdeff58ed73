# SPDX-License-Identifier: Apache-2.0
"""The average of a stock averaged model, whatever its class, as a function of the update step."""

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
    """How an averaged model averages at an update, by calling its own ``avg_func``.

    If that function moves four probe numbers by one weight, that weight is its result, and all
    tensors can be updated at once. The momentum may depend on the step, or be set from outside at
    any time. Any other function is called with the tensors themselves.

    Args:
        averaged: The averaged model. It is asked at every update.
    """

    def __init__(self, averaged: BaseAveragedModel) -> None:
        self._averaged = averaged
        self._by_weight: Optional[bool] = None

    def __call__(self, step: int) -> Average:
        """The weight of the student's value at an update, or the function that averages.

        Args:
            step: The update step.
        """
        # A count on a GPU would make the host wait for it, once for each tensor.
        steps = torch.tensor(step)
        averaged = _with_steps(self._averaged, steps)
        if self._by_weight is None:
            weights = [_weight(averaged, steps, shape) for shape in _SHAPES]
            same = [w is not None and abs(w - (weights[0] or 0)) < 1e-9 for w in weights]
            self._by_weight = all(same)
        weight = _weight(averaged, steps, (4,)) if self._by_weight else None
        if weight is not None:
            return weight

        def average(teacher: Tensor, student: Tensor) -> None:
            averaged.avg_func(teacher, student, steps)

        return average

    def describe(self) -> Optional[Schedule]:
        """The schedule of the momentum as it is set now, for reports; None if it is not known."""
        average = type(self._averaged).avg_func
        owner = f'{average.__module__}.{average.__qualname__.rpartition(".")[0]}'
        found = _SCHEDULES.get(owner)
        return None if found is None else found(self._averaged)


# An average may treat vectors, as biases and norms are, unlike others.
_SHAPES = ((4,), (2, 2), (2, 2, 1), (2, 1, 2, 1))


def _weight(averaged: BaseAveragedModel, steps: Tensor, shape: tuple[int, ...]) -> Optional[float]:
    """The weight by which ``avg_func`` moves the probe numbers; None if there is no such weight."""
    probe = _OLD.clone().view(shape)
    averaged.avg_func(probe, _NEW.view(shape), steps)
    values = probe.flatten().tolist()
    weight = float(values[0])
    if not 0 <= weight <= 1:
        return None
    expected = (_OLD + weight * (_NEW - _OLD)).tolist()
    alike = all(abs(value - other) < 1e-9 for value, other in zip(values, expected))
    return weight if alike else None


def _with_steps(averaged: BaseAveragedModel, steps: Tensor) -> BaseAveragedModel:
    """The averaged model, or a view of it whose count is on the CPU where its own is not."""
    if averaged.steps.device.type == 'cpu':
        return averaged
    view: Any = object.__new__(type(averaged))
    vars(view).update(vars(averaged))
    view.__dict__['_buffers'] = {**averaged._buffers, 'steps': steps}
    return view


# Classes whose `avg_func` has a momentum that can be described ahead, by full name, since none of
# these libraries needs to be installed.
_SCHEDULES: dict[str, Callable[[Any], Schedule]] = {
    'mmengine.model.averaged_model.ExponentialMovingAverage': lambda averaged: Schedule(
        constant, {'value': averaged.momentum}
    ),
    'mmengine.model.averaged_model.MomentumAnnealingEMA': lambda averaged: Schedule(
        annealed, {'value': averaged.momentum, 'gamma': averaged.gamma}
    ),
    'mmengine.model.averaged_model.StochasticWeightAverage': lambda averaged: Schedule(
        running_mean, {'interval': averaged.interval}
    ),
    'mmpretrain.models.utils.ema.CosineEMA': lambda averaged: Schedule(
        cosine, {'start': averaged.momentum, 'end': averaged.end_momentum}
    ),
    **{
        f'{module}.ema{"_hook" * ("hooks" in module)}.ExpMomentumEMA': lambda averaged: Schedule(
            exp_annealed, {'value': averaged.momentum, 'gamma': averaged.gamma}
        )
        for module in ('mmdet.models.layers', 'mmpose.engine.hooks', 'mmyolo.models.layers')
    },
}
