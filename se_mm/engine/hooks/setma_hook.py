# SPDX-License-Identifier: Apache-2.0
"""The hook that lets a teacher follow its student by Spatial-Temporal Smoothing."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.registry import HOOKS

from se_mm.engine.hooks.spatial_ensemble_hook import SpatialEnsembleHook
from se_mm.engine.hooks.stock_options import stock_average
from se_mm.engine.teachers import Teacher
from se_mm.smoothing import Rule
from se_mm.smoothing.options import OptionError, check_flag
from se_mm.smoothing.schedules import Schedule, constant, momentum_schedule


@HOOKS.register_module()
class SETMAHook(SpatialEnsembleHook):
    """Lets the teacher follow its student by Spatial-Temporal Smoothing (STS).

    At each update every unit of the teacher is either kept, with probability ``keep_prob``, or
    moved towards the student's by the average that the config had: Spatial Ensemble (SE) composed
    with a temporal moving average (TMA). With ``keep_prob=0`` it is that average alone. Source:
    Huang et al., NeurIPS 2021, https://arxiv.org/abs/2110.01253.

    Example:
        >>> custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SETMAHook', keep_prob=0.7)]

    Args:
        keep_prob: Probability in [0, 1) that a unit is kept at an update, or a schedule of it.
        momentum: Share of the new value in a unit that is not kept, in (0, 1] (OpenMMLab's sense:
            one minus the paper's); or a schedule: ``'linear'`` or ``'cosine'`` with ``start`` and
            ``end``, ``'annealed'`` or ``'exp_annealed'`` with ``value`` and ``gamma``. None: the
            average that is replaced, whatever its rule; 0.0002 where there is none.
        match_horizon: Whether the momentum in force is ``momentum / (1 - keep_prob)``, at most 1:
            the teacher is then as fast as the one it replaces, and not slower as in the paper.
        ema_type: As in the line of an ``EMAHook``: the averaged model whose average is meant, built
            with ``momentum`` and with its own options (``gamma``) beside it. None: as above.
        fp32_teacher: Whether the averages of a teacher in bfloat16 or float16 are kept in float32
            beside it, and in the checkpoint: most moves are less than its precision, and would be
            rounded to nothing.
        **options: Those of :class:`SpatialEnsembleHook`; an override may have a ``momentum`` too.

    Raises:
        OptionError: As :class:`SpatialEnsembleHook`.
    """

    def __init__(
        self,
        keep_prob: Any = 0.7,
        momentum: Any = None,
        match_horizon: bool = False,
        fp32_teacher: bool = True,
        **options: Any,
    ) -> None:
        before = dict(options)
        self.momentum = stock_average(momentum, options)
        ema_type = {key: before[key] for key in before if key not in options} or None
        if self.momentum is None and momentum is not None:
            self.momentum = momentum_schedule('momentum', momentum)
        self.match_horizon = check_flag('match_horizon', match_horizon)
        self.fp32_teacher = check_flag('fp32_teacher', fp32_teacher)
        super().__init__(keep_prob=keep_prob, **options)
        self._options.update(
            momentum=momentum,
            match_horizon=match_horizon,
            fp32_teacher=fp32_teacher,
            ema_type=ema_type or None,
        )

    def _option_names(self) -> list[str]:
        return [*super()._option_names(), 'momentum', 'match_horizon', 'fp32_teacher', 'ema_type']

    def _rule(self, teacher: Optional[Teacher] = None) -> Rule:
        momentum = self.momentum
        if momentum is None and teacher is not None:
            momentum = teacher.inherited_average() or Schedule(
                constant, {'value': teacher.default_momentum}
            )
        if self.match_horizon and momentum is not None and not isinstance(momentum, Schedule):
            raise OptionError(
                f'match_horizon=True is not allowed with the average of {teacher}, which is no '
                f'momentum: leave it False, or give a momentum.'
            )
        # Before the teacher is known any momentum will do: only whether there is one matters.
        momentum = momentum or Schedule(constant, {'value': 1.0})
        return Rule(self.keep_prob, momentum, self.match_horizon, self.granularity)
