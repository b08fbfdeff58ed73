# SPDX-License-Identifier: Apache-2.0
"""What the averaged model that a hook replaces did to a tensor: its momentum, or its own rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

from mmengine.model import BaseAveragedModel
from torch import Tensor

from se_mm.smoothing.options import OptionError
from se_mm.smoothing.rules import AverageFunction
from se_mm.smoothing.schedules import (
    Schedule,
    annealed,
    constant,
    cosine,
    exp_annealed,
    running_mean,
)

# By full name, since mmpretrain and mmdet need not be installed, and a subclass may average
# otherwise.
_SCHEDULES: dict[str, Callable[[BaseAveragedModel], Schedule]] = {
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
    'mmdet.models.layers.ema.ExpMomentumEMA': lambda averaged: Schedule(
        exp_annealed, {'value': averaged.momentum, 'gamma': averaged.gamma}
    ),
}


def inherited_average(averaged: BaseAveragedModel) -> Union[Schedule, AverageFunction]:
    """The averaging rule of a stock averaged model.

    Args:
        averaged: The averaged model that a hook takes the place of.

    Returns:
        The schedule of its momentum, for the classes of mmengine, mmpretrain and mmdet; its own
        ``avg_func`` for any other class.

    Raises:
        OptionError: If its class does more than averaging tensor by tensor.
    """
    kind = type(averaged)
    schedule = _SCHEDULES.get(f'{kind.__module__}.{kind.__qualname__}')
    if schedule is not None:
        return schedule(averaged)
    if kind.update_parameters is not BaseAveragedModel.update_parameters:
        raise OptionError(
            f'momentum=None cannot be inherited: {kind.__name__} has an update_parameters of its '
            f'own. Give a number in (0, 1] or a schedule.'
        )

    def average(teacher: Tensor, student: Tensor, step: int) -> None:
        # Its rule is written for the tensor that counts the steps.
        averaged.avg_func(teacher, student, averaged.steps)

    return average
