# SPDX-License-Identifier: Apache-2.0
"""What keeps a teacher from taking over what is not finite, and from differing over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Optional

from torch import Tensor

from se_mm.smoothing.digest import differing
from se_mm.smoothing.finite import FiniteCheck
from se_mm.smoothing.ranks import world_size
from se_mm.smoothing.smoother import Smoother
from se_mm.smoothing.units import Pair, is_sharded

NON_FINITE = ('stop', 'skip')


class TeacherFault(RuntimeError):
    """A teacher is damaged, or would be by the next update, and the run must not go on with it.

    The message is a single line that names the tensor and the update.
    """


class Guard:
    """Looks at student and teacher around the updates.

    Example:
        >>> import torch
        >>> from se_mm.smoothing import Rule, Rules, Smoother, keep_prob_schedule, pair_modules
        >>> from se_mm.smoothing.guard import Guard
        >>> student, teacher = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
        >>> rule = Rule(keep_prob_schedule('keep_prob', 0.7), None, False, 'tensor')
        >>> smoother = Smoother(*pair_modules(teacher, student), Rules(rule, {}), 'copy')
        >>> guard = Guard(smoother, check_finite=1)
        >>> guard.allows(step=0)
        True
        >>> _ = student.weight.data.fill_(float('nan'))
        >>> guard.allows(step=1)
        Traceback (most recent call last):
            ...
        se_mm.smoothing.guard.TeacherFault: student tensor 'weight' is not finite at update 1: ...

    Args:
        smoother: Whose teacher and student they are.
        check_teachers: Updates from one comparison of the ranks' teachers to the next; 0: never.
        check_finite: Opportunities for an update from one look at the student to the next; the
            first is always looked at. 0: never.
        skipped: What is told of each update that is left out because the student was not finite:
            the tensors' names, the update step, and how many have been left out. None: such a
            student is a fault.

    Attributes:
        check_finite: As given.
        exempt: Names of the constants that are not finite, and are not looked at.
    """

    def __init__(
        self,
        smoother: Smoother,
        check_teachers: int = 0,
        check_finite: int = 0,
        skipped: Optional[Callable[[Sequence[str], int, int], None]] = None,
    ) -> None:
        self.check_finite = check_finite
        self._check_teachers = check_teachers
        self._skipped = skipped
        self._left_out = 0
        self._opportunities = 0
        self._smoother = smoother
        pairs = (*smoother.parameters, *smoother.buffers)
        self._student = FiniteCheck((pair.name, pair.student) for pair in pairs)
        self._teacher = FiniteCheck((pair.name, pair.teacher) for pair in pairs)
        self.exempt: list[str] = []

    def start(self) -> None:
        """Leave out what is not finite on purpose, as a mask of ``-inf``.

        To be called by all ranks once the weights are there. What is trained is not left out: a
        run that goes on from damaged weights is to be stopped.
        """
        if not self.check_finite:
            return
        constant = {pair.name for pair in self._smoother.buffers}
        constant |= {p.name for p in self._smoother.parameters if not p.student.requires_grad}
        found = self._student.not_finite(on_all_ranks=True)
        self.exempt = [name for name in found if name in constant]
        self._student = self._student.without(self.exempt)
        self._teacher = self._teacher.without(self.exempt)

    def allows(self, step: int) -> bool:
        """Whether the update may be made. Called by all ranks before each.

        Args:
            step: The update step.

        Raises:
            TeacherFault: If the student is not finite, and updates are not to be left out.
        """
        if not self.check_finite:
            return True
        self._opportunities += 1
        if self._opportunities > 1 and self._opportunities % self.check_finite:
            return True
        names = self._student.not_finite(on_all_ranks=True)
        if not names:
            return True
        if self._skipped is None:
            raise _not_finite('student', names, step)
        self._left_out += 1
        self._skipped(names, step, self._left_out)
        return False

    def compare(self, step: int) -> None:
        """Compare the teachers of all ranks, if it is time to. Called by all after each update.

        Args:
            step: Updates made.

        Raises:
            TeacherFault: If they differ; on all ranks alike.
        """
        if not self._check_teachers or step % self._check_teachers or world_size() == 1:
            return
        found = differing(self._compared())
        if found:
            (name, rank), *others = found
            more = f', as do {len(others)} others' if others else ''
            raise TeacherFault(
                f"teacher tensor {name!r} of rank {rank} differs from rank 0's at update "
                f'{step}{more}: go on from a checkpoint that was written before.'
            )

    def check_saved(self, step: int) -> None:
        """Refuse to save what is not finite. Called by the one rank that saves.

        Args:
            step: Updates made.

        Raises:
            TeacherFault: If the teacher is not finite; or the student, unless updates are left out.
        """
        if not self.check_finite:
            return
        checks = [('teacher', self._teacher)]
        if self._skipped is None:
            checks.append(('student', self._student))
        for whose, check in checks:
            names = check.not_finite()
            if names:
                raise _not_finite(whose, names, step)

    def _compared(self) -> list[tuple[str, Tensor]]:
        """The teacher's parameters, and the averages of those of a low precision.

        No buffers: a batch norm that is not synchronised counts the images of its own rank, so that
        its statistics rightly differ.
        """
        averages = self._smoother.fp32
        parameters = self._smoother.parameters
        return [
            *((pair.name, pair.teacher) for pair in parameters),
            *((p.name, averages[p.name]) for p in parameters if p.name in averages),
        ]


def sharded(pairs: Iterable[Pair]) -> Optional[str]:
    """Name of the first teacher's tensor of which a rank has a shard alone."""
    return next((pair.name for pair in pairs if is_sharded(pair.teacher)), None)


def _not_finite(whose: str, names: Sequence[str], step: int) -> TeacherFault:
    more = f' (nor are {len(names) - 1} others)' if len(names) > 1 else ''
    return TeacherFault(
        f'{whose} tensor {names[0]!r} is not finite at update {step}{more}: nothing of it was '
        f'taken over or saved. Go on from the last checkpoint, with a lower learning rate say.'
    )
