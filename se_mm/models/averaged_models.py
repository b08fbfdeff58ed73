# SPDX-License-Identifier: Apache-2.0
"""Averaged models for ``ema_type`` of a stock ``EMAHook``, or wherever a config builds one."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseAveragedModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing import Settings, Smoother
from se_mm.smoothing import SpatialEnsemble as Ensemble
from se_mm.smoothing.options import check_flag, check_keys


class SmoothedModel(BaseAveragedModel):
    """An averaged model of MMEngine whose updates are those of a Spatial Ensemble.

    It has the state dict of every other averaged model: ``steps`` and ``module.*``.

    Args:
        model: The student; the teacher is a copy of it.
        interval: Calls from one update to the next, at least 1.
        device: Where the teacher is kept; None: where the student is.
        update_buffers: Whether floating-point buffers are smoothed like parameters; otherwise they
            follow the student.
        **options: ``keep_prob``, ``granularity``, ``overrides``, ``seed`` and, for an average,
            ``momentum`` and ``match_horizon``: see :class:`~se_mm.smoothing.Settings`.
    """

    defaults: ClassVar[dict[str, Any]]

    def __init__(
        self,
        model: nn.Module,
        interval: int = 1,
        device: Optional[torch.device] = None,
        update_buffers: bool = False,
        **options: Any,
    ) -> None:
        allowed = ['granularity', 'overrides', 'seed', *self.defaults]
        check_keys(type(self).__name__, options, allowed)
        settings = Settings(**{**self.defaults, **options, 'interval': interval})
        super().__init__(model, interval, device, check_flag('update_buffers', update_buffers))
        buffers = 'average' if update_buffers else 'copy'
        smoother = Smoother(self.module, settings, buffers=buffers)
        smoother.bind(model)
        ensemble = Ensemble.around(smoother, owner=self)
        # Not as a submodule, whose tensors would be saved twice.
        self.__dict__['_ensemble'] = ensemble
        self._total: Optional[int] = None

    def update_parameters(self, model: nn.Module) -> None:
        """Make one update from the student, if one is due.

        Raises:
            TeacherFault: If a tensor of the student has changed its shape or was removed.
        """
        ensemble: Ensemble = self.__dict__['_ensemble']
        if self._total is None:
            # As mmpretrain's CosineEMA does.
            self._total = int(MessageHub.get_current_instance().get_info('max_iters', 1))
            ensemble.total = self._total
        ensemble.update(model, interval=self.interval)

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Update one tensor, as a unit that is not kept."""
        weight = self.__dict__['_ensemble'].settings.default.average(int(steps), self._total or 1)
        averaged_param.lerp_(source_param, 1.0 if weight is None else weight)


@MODELS.register_module()
class SpatialEnsemble(SmoothedModel):
    """Spatial Ensemble (SE): at each update a unit is kept, or becomes the student's.

    Source: Huang et al., NeurIPS 2021, https://arxiv.org/abs/2110.01253. Its arguments are those of
    :class:`SmoothedModel`.

    Example:
        >>> custom_hooks = [dict(type='EMAHook', ema_type='SpatialEnsemble', keep_prob=0.999)]
    """

    defaults: ClassVar[dict[str, Any]] = {'keep_prob': 0.99}


@MODELS.register_module()
class SpatialTemporalSmoothing(SmoothedModel):
    """Spatial-Temporal Smoothing (STS): at each update a unit is kept, or averaged by ``momentum``.

    Source and arguments: see :class:`SpatialEnsemble`.

    Example:
        >>> custom_hooks = [dict(type='EMAHook', ema_type='SpatialTemporalSmoothing')]
    """

    defaults: ClassVar[dict[str, Any]] = dict(keep_prob=0.7, momentum=0.0002, match_horizon=False)
