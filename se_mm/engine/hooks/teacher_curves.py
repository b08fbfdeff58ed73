# SPDX-License-Identifier: Apache-2.0
"""The curves of a teacher: how much of it is taken over, and how far it is from its student."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner

from se_mm.history.provenance import share_taken
from se_mm.history.segments import Segment, read_history
from se_mm.history.stages import stages
from se_mm.smoothing.units import is_sharded
from se_mm.teachers import Mover

LAST = 100
"""The share of units taken over is that of the last updates, up to this many."""


class TeacherCurves:
    """Logs a teacher's curves whenever the run's logger logs.

    Between two logs nothing is computed, and at a log the host waits for the device once.

    Args:
        mover: What moves the teacher.

    Attributes:
        scalars: What was logged last, by name.
    """

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._logged = mover.ensemble.step
        self.scalars: dict[str, float] = {}

    def log(self, runner: Runner, batch_idx: int) -> None:
        """Put the curves into the message hub, if the logger is about to log.

        Args:
            runner: The runner of the run.
            batch_idx: Index of the batch in the loop, as hooks are told.
        """
        logger = next((h for h in runner.hooks if isinstance(h, LoggerHook)), None)
        if logger is None or not _is_due(runner, logger, batch_idx):
            return
        self.scalars = {**self._rules(), **self._distances()}
        self._logged = self._mover.ensemble.step
        for name, value in self.scalars.items():
            runner.message_hub.update_scalar(f'train/teacher/{name}', value)

    def _rules(self) -> dict[str, float]:
        """keep_prob and momentum in force at the last update, and the share of units taken over."""
        mover, updates = self._mover, self._mover.ensemble.step
        step = updates - 1
        if step < 1 or mover.following:
            return {}
        last: Segment = read_history(mover.history.segments, updates)[-1]
        if not last.rules:
            return {}
        found = {'keep_prob': mover.ensemble.settings.default.keep_prob(step, last.total)}
        average = mover.weight(step)
        if isinstance(average, float):
            found['momentum'] = average
        begin = max(self._logged, updates - LAST, last.begin, 1)
        if begin < updates:
            found['taken'] = share_taken(last, range(begin, updates))
        return found

    @torch.no_grad()
    def _distances(self) -> dict[str, float]:
        """``|t - s| / |s|`` of each stage."""
        named = self._mover.ensemble.smoother.named()
        floating = {name: p for name, p in named.items() if p.teacher.is_floating_point()}
        parts = stages(floating)
        squares = []
        for pairs in ([floating[name] for name in names] for names in parts.values()):
            apart = torch.stack([_square(p.teacher, p.student) for p in pairs]).sum()
            size = torch.stack([_square(p.student) for p in pairs]).sum()
            squares.append((apart / size.clamp(min=1e-24)).sqrt())
        if not squares:
            return {}
        values = torch.stack(squares).tolist()
        return {f'distance/{stage}': value for stage, value in zip(parts, values)}


def _is_due(runner: Runner, logger: LoggerHook, batch_idx: int) -> bool:
    """Whether the logger logs after this iteration."""
    if logger.every_n_inner_iters(batch_idx, logger.interval):
        return True
    last = logger.end_of_epoch(runner.train_dataloader, batch_idx)
    short = len(runner.train_dataloader) <= logger.interval
    return last and (not logger.ignore_last or short)


def _square(tensor: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
    """Squared norm of a tensor, or of its difference from another, in float32."""
    value = tensor.detach().float()
    if other is not None:
        value = value - other.detach().float().to(value.device)
    square: Any = value.square().sum()
    return square.full_tensor() if is_sharded(square) else square
