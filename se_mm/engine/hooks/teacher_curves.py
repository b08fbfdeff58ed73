# SPDX-License-Identifier: Apache-2.0
"""Log curves of a teacher: the fraction of units picked, and the distance to its student."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner

from se_mm.history.provenance import share_taken
from se_mm.history.segments import Segment, read_history
from se_mm.history.stages import stages
from se_mm.smoothing.units import TensorPair, is_sharded
from se_mm.teachers import Updater

LAST = 100
"""The fraction of units picked is a mean over the last updates, up to this many."""


class TeacherCurves:
    """Logs a teacher's curves whenever the run's logger logs.

    Nothing is computed between two logs, and at a log the host waits for the device once. Distances
    of parts are only in the visualizer, so that lines in the terminal stay short.
    """

    def __init__(self, updater: Updater) -> None:
        self._updater = updater
        self._logged = updater.ensemble.step

    def log(self, runner: Runner, batch_idx: int) -> None:
        """Put the curves into the message hub, if the logger is about to log."""
        logger = next((h for h in runner.hooks if isinstance(h, LoggerHook)), None)
        if logger is None or not _is_due(runner, logger, batch_idx):
            return
        scalars = {**self._rules(), **self._distances()}
        self._logged = self._updater.ensemble.step
        parts = {}
        for name, value in scalars.items():
            if name.startswith('distance/'):
                parts[f'teacher/{name}'] = value
            else:
                runner.message_hub.update_scalar(f'train/teacher/{name}', value)
        # Not by the message hub, whose scalars are all printed in the terminal.
        runner.visualizer.add_scalars(parts, runner.iter + 1, logger.json_log_path)

    def _rules(self) -> dict[str, float]:
        """keep_prob and momentum at the last update, and the fraction of units picked."""
        updater, updates = self._updater, self._updater.ensemble.step
        step = updates - 1
        if step < 1 or updater.following:
            return {}
        last: Segment = read_history(updater.history.segments, updates)[-1]
        if not last.rules:
            return {}
        found = {'keep_prob': updater.ensemble.settings.default.keep_prob(step, last.total)}
        average = updater.weight(step)
        if isinstance(average, float):
            found['momentum'] = average
        begin = max(self._logged, updates - LAST, last.begin, 1)
        if begin < updates:
            found['taken'] = share_taken(last, range(begin, updates))
        return found

    @torch.no_grad()
    def _distances(self) -> dict[str, float]:
        """``|t - s| / |s|`` of the whole teacher and of each stage."""
        named = self._updater.smoother.named()
        floating = {name: p for name, p in named.items() if p.teacher.is_floating_point()}
        norms = dict(zip(floating, _norms(list(floating.values()))))
        parts = {'distance': list(floating)}
        parts |= {f'distance/{stage}': names for stage, names in stages(floating).items()}
        found = {}
        for part, names in parts.items():
            apart, size = (math.hypot(*both) for both in zip(*(norms[name] for name in names)))
            found[part] = apart / max(size, 1e-12)
        return found


def _is_due(runner: Runner, logger: LoggerHook, batch_idx: int) -> bool:
    """Whether the logger logs after this iteration."""
    if logger.every_n_inner_iters(batch_idx, logger.interval):
        return True
    last = logger.end_of_epoch(runner.train_dataloader, batch_idx)
    short = len(runner.train_dataloader) <= logger.interval
    return last and (not logger.ignore_last or short)


def _norms(pairs: list[TensorPair]) -> list[list[float]]:
    """``|t - s|`` and ``|s|`` of each pair, in float32; the host waits for the device once."""
    found: list[Any] = []
    for pair in pairs:
        student = pair.student.float()
        apart = pair.teacher.float().to(student.device) - student
        found += [torch.linalg.vector_norm(tensor) for tensor in (apart, student)]
    if not found:
        return []
    whole = [norm.full_tensor() if is_sharded(norm) else norm for norm in found]
    return torch.stack([norm.to(whole[0].device) for norm in whole]).view(-1, 2).tolist()
