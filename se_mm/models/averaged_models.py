# SPDX-License-Identifier: Apache-2.0
"""Averaged models of MMEngine whose averaging is a Spatial Ensemble.

:class:`SpatialEnsemble` and :class:`SpatialTemporalSmoothing` can be named as ``ema_type`` of a
stock ``EMAHook``, and built wherever a config builds an averaged model.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseAveragedModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing import Settings
from se_mm.smoothing import SpatialEnsemble as Ensemble
from se_mm.smoothing.options import check_flag


class SmoothedModel(BaseAveragedModel):
    """An averaged model of MMEngine whose updates are those of a Spatial Ensemble.

    It has the state dict of every other averaged model: ``steps`` and ``module.*``.

    Args:
        model: The student; the teacher is a copy of it.
        settings: The options.
        interval: Calls from one update to the next, at least 1.
        device: Where the teacher is kept; None: where the student is.
        update_buffers: Whether floating-point buffers are smoothed like parameters; otherwise they
            follow the student.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        interval: int,
        device: Optional[torch.device],
        update_buffers: bool,
    ) -> None:
        check_flag('update_buffers', update_buffers)
        super().__init__(model, interval, device, update_buffers)
        ensemble = Ensemble.around(
            self.module, settings, owner=self, buffers='average' if update_buffers else 'copy'
        )
        ensemble.smoother.bind(model)
        # Not as a submodule, whose tensors would be saved twice.
        self.__dict__['_ensemble'] = ensemble
        self._total: Optional[int] = None

    def update_parameters(self, model: nn.Module) -> None:
        """Make one update, if one is due.

        Args:
            model: The student.

        Raises:
            TeacherFault: If a tensor of the student has got another shape, or is gone.
        """
        ensemble: Ensemble = self.__dict__['_ensemble']
        if self._total is None:
            # mmpretrain's CosineEMA takes it from the same place.
            self._total = int(MessageHub.get_current_instance().get_info('max_iters', 1))
            ensemble.total = self._total
        ensemble.update(model, self.interval)

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Move one tensor as a unit that is not kept."""
        weight = self.__dict__['_ensemble'].settings.default.average(int(steps), self._total or 1)
        averaged_param.copy_(source_param) if weight is None else averaged_param.lerp_(
            source_param, weight
        )


@MODELS.register_module()
class SpatialEnsemble(SmoothedModel):
    """Spatial Ensemble (SE): at each update a unit is kept, or becomes the student's.

    Equation: ``t_i <- t_i`` with probability ``keep_prob``, otherwise ``t_i <- s_i``, for each unit
    i on its own. Source: Huang et al., NeurIPS 2021, https://arxiv.org/abs/2110.01253.

    Example:
        >>> custom_hooks = [dict(type='EMAHook', ema_type='SpatialEnsemble', keep_prob=0.999)]

    Args:
        model: The student; the teacher is a copy of it.
        keep_prob: Probability in [0, 1) that a unit is kept, or a schedule of it.
        granularity: ``'tensor'``, ``'layer'``, ``'channel'`` or ``'element'``.
        overrides: Part of a tensor's name -> ``dict(keep_prob=, granularity=)``, ``'copy'`` or
            ``'skip'``.
        seed: Seed of the picks.
        interval: Calls from one update to the next, at least 1.
        device: Where the teacher is kept; the student's device if None.
        update_buffers: Whether buffers of floating dtype are smoothed like parameters; otherwise
            they follow the student.

    Raises:
        OptionError: If an option is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        keep_prob: Any = 0.99,
        granularity: str = 'tensor',
        overrides: Optional[dict] = None,
        seed: int = 0,
        interval: int = 1,
        device: Optional[torch.device] = None,
        update_buffers: bool = False,
    ) -> None:
        settings = Settings(
            keep_prob=keep_prob,
            granularity=granularity,
            overrides=overrides or {},
            interval=interval,
            seed=seed,
        )
        super().__init__(model, settings, interval, device, update_buffers)


@MODELS.register_module()
class SpatialTemporalSmoothing(SmoothedModel):
    """Spatial-Temporal Smoothing (STS): at each update a unit is kept, or moves to the student's.

    Equation: ``t_i <- t_i`` with probability ``keep_prob``, otherwise
    ``t_i <- (1 - momentum) t_i + momentum s_i``, for each unit i on its own. Source: Huang et al.,
    NeurIPS 2021, https://arxiv.org/abs/2110.01253; the momentum here is OpenMMLab's, one minus
    theirs.

    Example:
        >>> custom_hooks = [dict(type='EMAHook', ema_type='SpatialTemporalSmoothing')]

    Args:
        model: The student; the teacher is a copy of it.
        keep_prob: Probability in [0, 1) that a unit is kept, or a schedule of it.
        momentum: Share of the new value, in (0, 1], or a schedule of it.
        match_horizon: Whether the momentum in force is ``momentum / (1 - keep_prob)``, at most 1.
        granularity: ``'tensor'``, ``'layer'``, ``'channel'`` or ``'element'``.
        overrides: Part of a tensor's name -> ``dict(keep_prob=, momentum=, granularity=)``,
            ``'copy'`` or ``'skip'``.
        seed: Seed of the picks.
        interval: Calls from one update to the next, at least 1.
        device: Where the teacher is kept; the student's device if None.
        update_buffers: Whether buffers of floating dtype are smoothed like parameters; otherwise
            they follow the student.

    Raises:
        OptionError: If an option is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        keep_prob: Any = 0.7,
        momentum: Any = 0.0002,
        match_horizon: bool = False,
        granularity: str = 'tensor',
        overrides: Optional[dict] = None,
        seed: int = 0,
        interval: int = 1,
        device: Optional[torch.device] = None,
        update_buffers: bool = False,
    ) -> None:
        settings = Settings(
            keep_prob=keep_prob,
            momentum=momentum,
            match_horizon=match_horizon,
            granularity=granularity,
            overrides=overrides or {},
            interval=interval,
            seed=seed,
        )
        super().__init__(model, settings, interval, device, update_buffers)
