# SPDX-License-Identifier: Apache-2.0
"""Say that a run has diverged, where a model fails because of that."""

from __future__ import annotations

from mmengine.runner import Runner

from se_mm.smoothing import OptionError, TeacherFault
from se_mm.smoothing.guards import not_finite
from se_mm.teachers import plain_model


def say_if_diverged(runner: Runner, error: Exception) -> None:
    """Log the trained tensors that are not finite, and add a note to the error that ended a run.

    A detector whose weights are NaN finds nothing, for example, and then lacks one of its losses.
    """
    if isinstance(error, (OptionError, TeacherFault)):
        return  # They say it themselves.
    parameters = plain_model(runner.model).named_parameters()
    try:
        names = not_finite((name, value) for name, value in parameters if value.requires_grad)
    except Exception:  # A device that has failed cannot be asked.
        return
    if not names:
        return
    more = f', and so are {len(names) - 1} others' if len(names) > 1 else ''
    said = (
        f'the run has diverged: tensor {names[0]!r} of the student is not finite at iteration '
        f'{runner.iter}{more}; this may be the cause of the {type(error).__name__}. Resume from '
        f'the last checkpoint, for example with a lower learning rate'
    )
    runner.logger.error(said)
    if hasattr(error, 'add_note'):  # Since Python 3.11.
        error.add_note(said)
