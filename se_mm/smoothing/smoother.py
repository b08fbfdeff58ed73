# SPDX-License-Identifier: Apache-2.0
"""A teacher bound to its student: everything that an update needs, worked out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from se_mm.smoothing.plan import Plan
from se_mm.smoothing.rules import SKIP, Rule, Rules
from se_mm.smoothing.units import Pair, Units

BUFFER_POLICIES = ('copy', 'average', 'skip')
_LOW_PRECISION = (torch.bfloat16, torch.float16)


class Smoother:
    """Moves a teacher after its student by Spatial Ensemble, alone or with an average.

    Example:
        >>> import torch
        >>> from se_mm.smoothing import Rule, Rules, Smoother, keep_prob_schedule, pair_modules
        >>> student, teacher = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
        >>> keep_prob = keep_prob_schedule('keep_prob', 0.7)
        >>> rule = Rule(keep_prob, momentum=None, match_horizon=False, granularity='channel')
        >>> smoother = Smoother(*pair_modules(teacher, student), Rules(rule, {}), 'copy')
        >>> smoother.copy()  # the first update copies everything
        >>> smoother.update(step=1, total=100, seed=0)

    Args:
        parameters: The parameter pairs.
        buffers: The buffer pairs.
        rules: How each tensor is smoothed; an override applies to buffers as it does to parameters.
        buffer_policy: ``'copy'``: buffers follow the student at every update; ``'average'``: those
            of floating dtype are smoothed as parameters are, the others follow; ``'skip'``: they
            stay as the first update left them.
        fp32_teacher: Whether the averages of bfloat16 and float16 tensors are kept in float32
            beside them: what an average moves by is mostly less than their precision, and would be
            rounded to nothing.

    Attributes:
        parameters: As given.
        buffers: As given.
        rules: As given.
        smoothed: The rules in use, each with the plan of the units that it holds for.
        fp32: Name -> the average in float32, for tensors that have one.
        followed: Names of the tensors of floating dtype that are copied at every update.

    Raises:
        OptionError: If an override matches no tensor.
    """

    def __init__(
        self,
        parameters: Sequence[Pair],
        buffers: Sequence[Pair],
        rules: Rules,
        buffer_policy: str,
        fp32_teacher: bool = True,
    ) -> None:
        self.parameters = tuple(parameters)
        self.buffers = tuple(buffers)
        self.rules = rules
        rules.check_matches(pair.name for pair in (*self.parameters, *self.buffers))
        smoothed: dict[Rule, list[Pair]] = {}
        followed: list[Pair] = []

        def put(pair: Pair, rule: Rule | str) -> None:
            if rule == SKIP or pair.teacher.numel() == 0:
                return
            if isinstance(rule, Rule) and pair.teacher.is_floating_point():
                smoothed.setdefault(rule, []).append(pair)
            else:
                followed.append(pair)

        for pair in self.parameters:
            put(pair, rules.of(pair.name))
        for pair in self.buffers:
            rule = rules.of(pair.name)
            overridden = isinstance(rule, str)
            put(pair, rule if overridden or buffer_policy == 'average' else buffer_policy)
        self.fp32: dict[str, Tensor] = {}
        self.smoothed: list[tuple[Rule, Plan]] = []
        # The units whose average is in float32, which are then rounded to the teacher's dtype.
        self._rounded: list[tuple[Rule, Plan]] = []
        for rule, pairs in smoothed.items():
            rounded = []
            if fp32_teacher and rule.momentum is not None:
                rounded = [pair for pair in pairs if pair.teacher.dtype in _LOW_PRECISION]
            self.fp32.update((pair.name, pair.teacher.float()) for pair in rounded)
            moved = [
                replace(pair, teacher=self.fp32.get(pair.name, pair.teacher)) for pair in pairs
            ]
            self.smoothed.append((rule, Plan(Units(moved, rule.granularity))))
            if rounded:
                copies = [replace(pair, student=self.fp32[pair.name]) for pair in rounded]
                self._rounded.append((rule, Plan(Units(copies, rule.granularity))))
        self.followed = [pair.name for pair in followed if pair.teacher.is_floating_point()]
        self._followed = _copies(followed)
        everything = [*self.parameters, *self.buffers]
        averages = [
            replace(pair, teacher=self.fp32[pair.name])
            for pair in everything
            if pair.name in self.fp32
        ]
        self._everything = _copies([*everything, *averages])

    def copy(self) -> None:
        """Make the teacher equal to the student, all parameters and all buffers."""
        self._everything.update(seed=0, step=0, keep_prob=0, average=None)

    @torch.no_grad()
    def restore(self, fp32: Mapping[str, Tensor]) -> None:
        """Go on from a teacher whose values were loaded.

        Args:
            fp32: :attr:`fp32` as it was; for names that it lacks, the teacher's values are taken.
        """
        for pair in (*self.parameters, *self.buffers):
            if pair.name in self.fp32:
                self.fp32[pair.name].copy_(fp32.get(pair.name, pair.teacher))

    def follow(self) -> None:
        """Copy what follows the student at every update, and smooth nothing."""
        self._followed.update(seed=0, step=0, keep_prob=0, average=None)

    def update(self, step: int, total: int, seed: int) -> None:
        """Make one update.

        Args:
            step: The update step: updates made before this one, at least 0.
            total: Updates that the whole run makes, for the schedules.
            seed: Seed of the picks.
        """
        for rule, plan in self.smoothed:
            plan.update(seed, step, rule.keep_prob(step, total), rule.average(step, total))
        for rule, plan in self._rounded:
            plan.update(seed, step, rule.keep_prob(step, total), average=None)
        self.follow()


def _copies(pairs: Sequence[Pair]) -> Plan:
    """The plan of copying whole tensors."""
    return Plan(Units([pair for pair in pairs if pair.teacher.numel()], 'tensor'))
