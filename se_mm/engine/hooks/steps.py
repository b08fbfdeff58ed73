# SPDX-License-Identifier: Apache-2.0
"""Notice whether the optimizer has made a step."""

from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """The optimizer wrappers of a run."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if hasattr(wrapper, 'optim_wrappers') else [wrapper]


class OptimizerSteps:
    """Whether any optimizer of a run has made a step at the end of an iteration.

    Under gradient accumulation most iterations make none, and a loss scaler leaves out those whose
    gradients overflow: the optimizer itself is asked about these.

    Args:
        runner: The runner of the run.
        made: Whether to take a step as made before the first iteration.
    """

    def __init__(self, runner: Runner, made: bool) -> None:
        self._wrappers = optim_wrappers(runner)
        self._made = made
        self._hooked: dict[int, Any] = {}
        for wrapper in self._wrappers:
            self._may_skip(wrapper)

    def due(self) -> bool:
        """Whether a step was made since this was last asked."""
        reached = [wrapper for wrapper in self._wrappers if wrapper.should_update()]
        if not all(self._may_skip(wrapper) for wrapper in reached):
            return True
        made = bool(reached) and self._made
        if reached:
            self._made = False
        return made

    def _may_skip(self, wrapper: OptimWrapper) -> bool:
        """Whether a loss scaler may leave out a wrapper's steps; its optimizer is then hooked."""
        if getattr(wrapper, 'loss_scaler', None) is None:
            return False
        if self._hooked.get(id(wrapper)) is not wrapper.optimizer:
            wrapper.optimizer.register_step_post_hook(self._step_made)
            self._hooked[id(wrapper)] = wrapper.optimizer
        return True

    def _step_made(self, *_: object) -> None:
        self._made = True
