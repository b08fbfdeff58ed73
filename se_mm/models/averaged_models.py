# SPDX-License-Identifier: Apache-2.0
"""Averaged models of MMEngine whose averaging is a Spatial Ensemble.

:class:`SpatialEnsemble` and :class:`SpatialTemporalSmoothing` can be named as ``ema_type`` of a
stock ``EMAHook``, and built wherever a config builds an averaged model. :class:`SmoothedModel` is
what they and our hooks have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Optional

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseAveragedModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from se_mm.smoothing import Rule, Smoother, build_rules, keep_prob_schedule, momentum_schedule
from se_mm.smoothing.guard import Guard
from se_mm.smoothing.history import History
from se_mm.smoothing.options import OptionError, check_choice, check_count, check_flag
from se_mm.smoothing.units import GRANULARITIES, pair_modules


class SmoothedModel(BaseAveragedModel):
    """An averaged model that leaves the averaging to a smoother.

    It has the state dict of every other averaged model: ``steps`` and ``module.*``.

    Args:
        module: The teacher. It is taken as it is, not copied.
        steps: The scalar int64 buffer that counts the calls of :meth:`update_parameters`.
        interval: Calls from one update to the next.

    Attributes:
        smoother: What moves the teacher; to be set before the first update.
        seed: Seed of the picks.
        total: Updates that the whole run makes, for the schedules. None: the run's iterations, as
            MMEngine's message hub has them at the first update.
        following: While True an update copies everything and is not counted.
        held: While True :meth:`update_parameters` does nothing.
        guard: What looks at student and teacher around each update; None: nothing does.
        history: What is noted of updates for the teacher's history; None: nothing is.
    """

    def __init__(self, module: nn.Module, steps: Tensor, interval: int = 1) -> None:
        nn.Module.__init__(self)  # The parent's would copy the module.
        self.module = module
        self.register_buffer('steps', steps)
        self.interval = interval
        self.update_buffers = False
        self.smoother: Optional[Smoother] = None
        self.seed = 0
        self.total: Optional[int] = None
        self.following = False
        self.held = False
        self.guard: Optional[Guard] = None
        self.history: Optional[History] = None
        self._step = int(steps)
        self._verified = False
        self._loaded = False

    @property
    def step(self) -> int:
        """The value of ``steps`` as a Python number, which an update reads without waiting."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        self.steps.fill_(step)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._step = int(self.steps)
        self._loaded = True

    def update_parameters(self, model: nn.Module) -> None:
        """Make one update, if one is due.

        Args:
            model: The student that the smoother is bound to.

        Raises:
            OptionError: If it is another one. Only the first update looks.
            TeacherFault: If the guard finds one.
        """
        if not self._verified:
            self._verify(model)
        if self._loaded:
            self.restore({})
        if self.held:
            return
        allowed = self.guard is None or self.guard.allows(self._step)
        if self.following:
            if allowed:
                self.smoother.copy()
                if self.history is not None:
                    self.history.copy(self._step)
            return
        if self._step == 0:
            if not allowed:
                return  # The others move a teacher that began as a copy: the next one makes it.
            self.smoother.copy()
        elif allowed and self._step % self.interval == 0:
            self.smoother.update(self._step, self._total(), self.seed)
        elif allowed:
            self.smoother.follow()
        if not allowed and self.history is not None:
            self.history.skip(self._step)
        self._step += 1
        self.steps.add_(1)
        if self.guard is not None:
            self.guard.compare(self._step)

    def restore(self, fp32: Mapping[str, Tensor]) -> None:
        """Go on from a loaded teacher: see :meth:`~se_mm.smoothing.Smoother.restore`."""
        self.smoother.restore(fp32)
        self._loaded = False

    def _total(self) -> int:
        if self.total is None:
            # mmpretrain's CosineEMA takes it from the same place.
            self.total = int(MessageHub.get_current_instance().get_info('max_iters', 1))
        return self.total

    def _verify(self, model: nn.Module) -> None:
        """Refuse a student whose tensors are not those that the smoother reads."""
        given = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        for pair in (*self.smoother.parameters, *self.smoother.buffers):
            if id(pair.student) not in given:
                raise OptionError(
                    f'the model moves this teacher after another student than the one bound: '
                    f'{pair.name!r} is not in the {type(model).__name__} that it passes. Name the '
                    f'right one by student=.'
                )
        self._verified = True


class _EMAType(SmoothedModel):
    """A smoothed model that a config builds by itself, with a copy of its student."""

    def __init__(
        self,
        model: nn.Module,
        rule: Rule,
        overrides: Optional[dict],
        seed: int,
        interval: int,
        device: Optional[torch.device],
        update_buffers: bool,
    ) -> None:
        module = deepcopy(model).requires_grad_(False)
        if device is not None:
            module.to(device)
        steps = torch.tensor(0, dtype=torch.long, device=device)
        super().__init__(module, steps, check_count('interval', interval, 1))
        self.update_buffers = check_flag('update_buffers', update_buffers)
        self.smoother = Smoother(
            *pair_modules(module, model),
            rules=build_rules(rule, overrides or {}),
            buffer_policy='average' if update_buffers else 'copy',
        )
        self.seed = check_count('seed', seed)


@MODELS.register_module()
class SpatialEnsemble(_EMAType):
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
        rule = Rule(
            keep_prob=keep_prob_schedule('keep_prob', keep_prob),
            momentum=None,
            match_horizon=False,
            granularity=check_choice('granularity', granularity, GRANULARITIES),
        )
        super().__init__(model, rule, overrides, seed, interval, device, update_buffers)


@MODELS.register_module()
class SpatialTemporalSmoothing(_EMAType):
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
        rule = Rule(
            keep_prob=keep_prob_schedule('keep_prob', keep_prob),
            momentum=momentum_schedule('momentum', momentum),
            match_horizon=check_flag('match_horizon', match_horizon),
            granularity=check_choice('granularity', granularity, GRANULARITIES),
        )
        super().__init__(model, rule, overrides, seed, interval, device, update_buffers)
