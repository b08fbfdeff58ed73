# SPDX-License-Identifier: Apache-2.0
"""The teacher for any PyTorch loop: a copy of a student that follows it by Spatial Ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from se_mm.smoothing.options import OptionError, check_count, check_keys
from se_mm.smoothing.settings import RECALIBRATE, Settings
from se_mm.smoothing.smoother import Smoother
from se_mm.smoothing.tensors import unwrapped

OPTIONS = (
    'keep_prob',
    'momentum',
    'match_horizon',
    'granularity',
    'overrides',
    'buffers',
    'fp32_teacher',
    'interval',
    'seed',
)
"""The options of :class:`~se_mm.smoothing.Settings` that a :class:`SpatialEnsemble` has."""

# As torch.compiler.disable, which would import the compiler together with this module.
never_compiled = torch._disable_dynamo  # type: ignore[attr-defined]


class StepCounter:
    """The count of updates in a module's buffer ``steps``, known without waiting for its device.

    The buffer's version shows other changes, such as loading a checkpoint. Only then is it read,
    and ``loaded`` set.
    """

    def __init__(self, owner: nn.Module) -> None:
        self._owner = owner
        self._seen: Any = None
        self._version = -1
        self._value = 0
        self.loaded = False

    def __getstate__(self) -> dict[str, Any]:
        """A copy reads the buffer again."""
        return {**vars(self), '_seen': None}

    @property
    def value(self) -> int:
        """Updates made."""
        steps: Any = self._owner.steps
        if steps is not self._seen or steps._version != self._version:
            value, replaced = int(steps), self._seen is not None and steps is not self._seen
            self.loaded |= steps is self._seen or (replaced and value != self._value)
            self._seen, self._version, self._value = steps, steps._version, value
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        steps: Any = self._owner.steps
        if value == self.value + 1:
            steps.add_(1)
        else:
            steps.fill_(value)
        self._seen, self._version, self._value = steps, steps._version, value


class SpatialEnsemble(nn.Module):
    """A teacher that follows its student by Spatial Ensemble (SE), alone or with an average (STS).

    At each update every unit of the teacher is kept with probability ``keep_prob``. Otherwise it is
    averaged with the student's, which has the weight ``momentum``; ``momentum=1`` copies. The first
    update copies the student. Picks are a function of the seed, the update step and the names of
    the tensors, so all ranks of a job have equal teachers without communication. Source: Huang et
    al., *Spatial Ensemble*, NeurIPS 2021, https://arxiv.org/abs/2110.01253.

    The shape is that of timm's ``ModelEmaV3`` and PyTorch's ``AveragedModel``. The student may be
    wrapped in ``DistributedDataParallel`` or compiled. The state dict is all that a resume needs.

    Example:
        >>> import torch
        >>> from se_mm.smoothing import SpatialEnsemble
        >>> student = torch.nn.Linear(3, 2)
        >>> teacher = SpatialEnsemble(student, keep_prob=0.7, momentum=0.01)
        >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        >>> for images in torch.randn(5, 4, 3):
        ...     loss = student(images).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     teacher.update(student)
        >>> teacher(images).shape
        torch.Size([4, 2])
        >>> teacher.step
        5

    Args:
        student: The model to follow; the teacher is a copy of it in evaluation mode.
        keep_prob: As in :class:`~se_mm.smoothing.Settings`.
        momentum: As there, but not None.
        total_updates: Updates of the whole training, which ``'linear'`` and ``'cosine'`` schedules
            need.
        device: The teacher's device; None: the student's.
        **options: ``match_horizon``, ``granularity``, ``overrides``, ``buffers`` (not
            ``'recalibrate'``), ``fp32_teacher``, ``interval`` (in calls of :meth:`update`) and
            ``seed`` (0 by default), as there.

    Attributes:
        module: The teacher.
        settings: All options, validated.

    Raises:
        OptionError: If an option is invalid.
    """

    module: nn.Module
    steps: Tensor

    def __init__(
        self,
        student: nn.Module,
        keep_prob: Any = 0.99,
        momentum: Any = 1.0,
        *,
        total_updates: Optional[int] = None,
        device: Union[torch.device, str, None] = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_keys('SpatialEnsemble', options, OPTIONS[2:])
        if momentum is None:
            raise OptionError('momentum must be a number in (0, 1] or a schedule, got None')
        settings = Settings(keep_prob, momentum, **options)
        if settings.buffers == RECALIBRATE:
            raise OptionError(
                "buffers='recalibrate' needs a run of MMEngine: set buffers='copy', and call "
                'torch.optim.swa_utils.update_bn(loader, teacher.module) before evaluating'
            )
        if total_updates is None:
            for name in ('keep_prob', 'momentum'):
                if getattr(settings, name).needs_total:
                    raise OptionError(
                        f'total_updates must be set for {name}={getattr(settings, name)}'
                    )
        else:
            check_count('total_updates', total_updates, 1)
        module = deepcopy(unwrapped(student)).requires_grad_(False).eval()
        if device is not None:
            module.to(device)
        self._adopt(Smoother(module, settings), self, total_updates or 1)
        self.smoother.bind(student)
        self.eval()

    @classmethod
    def around(cls, smoother: Smoother, owner: Optional[nn.Module] = None) -> SpatialEnsemble:
        """Use a smoother's module as the teacher, without a copy.

        The buffer ``steps`` of ``owner`` counts the updates; None: the new module's buffer.
        """
        ensemble = cls.__new__(cls)
        nn.Module.__init__(ensemble)
        ensemble._adopt(smoother, ensemble if owner is None else owner, 1)
        return ensemble

    def _adopt(self, smoother: Smoother, owner: nn.Module, total: int) -> None:
        self.module, self.settings = smoother.teacher, smoother.settings
        self.seed, self.total = self.settings.seed or 0, total
        self.register_buffer('steps', torch.tensor(0, dtype=torch.long))
        self.smoother = smoother
        self._count = StepCounter(owner)
        self._loaded_fp32: dict[str, Tensor] = {}

    @property
    def step(self) -> int:
        """Updates made."""
        return self._count.value

    @step.setter
    def step(self, step: int) -> None:
        self._count.value = step

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the teacher."""
        return self.module(*args, **kwargs)

    @never_compiled
    @torch.no_grad()
    def update(self, student: nn.Module, *, interval: Optional[int] = None) -> None:
        """Make one update: call this after each step of the optimizer.

        Args:
            student: The student, wrapped or not.
            interval: Overrides the option.

        Raises:
            TeacherFault: If a tensor of the student is gone, or its shape has changed.
        """
        step = self.step
        self._restore()
        if step == 0:
            self.smoother.copy(student)
        elif step % (interval or self.settings.interval or 1) == 0:
            self.smoother.update(student, step, self.total, self.seed)
        else:
            self.smoother.follow(student)
        self.step = step + 1

    @never_compiled
    @torch.no_grad()
    def copy(self, student: nn.Module) -> None:
        """Make the teacher equal to the student, without counting an update."""
        self._restore()
        self.smoother.copy(student)

    def get_extra_state(self) -> dict[str, Any]:
        """What a resume needs besides the tensors. Called by ``state_dict``."""
        return {'seed': self.seed, 'fp32': dict(self.smoother.fp32)}

    def set_extra_state(self, state: Any) -> None:
        """Restore what :meth:`get_extra_state` returned. Called by ``load_state_dict``."""
        self.seed = int(state['seed'])
        self.restore(state['fp32'])

    def restore(self, fp32: Mapping[str, Tensor]) -> None:
        """Continue from the saved float32 averages of a low-precision teacher."""
        self._loaded_fp32 = dict(fp32)
        self._count.loaded = True

    def _restore(self) -> None:
        """After a teacher was loaded, replace the float32 averages."""
        if self._count.loaded:
            self.smoother.restore(self._loaded_fp32)
            self._loaded_fp32 = {}
            self._count.loaded = False
