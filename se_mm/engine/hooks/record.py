# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says of the hook that wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from mmengine.runner import Runner

from se_mm.history.segments import History, read_history
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.settings import Settings
from se_mm.teachers import Mover, Shadow
from se_mm.version import __version__

CHECKPOINT_KEY = 'se_mm'
"""The key that a checkpoint has beside the stock ones."""

# Beside the state dict, all that the picks depend on, and what publishing needs to know.
_TYPES = {
    'hook': str,
    'seed': int,
    'step': int,
    'options': Mapping,
    'teacher': Mapping,
    'fp32': Mapping,
    'history': list,
    'recalibrated': list,
}
_ADDED: Mapping[str, Any] = {'recalibrated': []}  # What older records do not have.


def save_teacher(
    mover: Mover, runner: Runner, checkpoint: dict[str, Any], writer: Mapping[str, Any]
) -> None:
    """Add a record to a checkpoint, and a teacher that is beside the model.

    The writer has the hook's name and its options in plain types. Raises TeacherFault if student or
    teacher is not finite.
    """
    ensemble, teacher = mover.ensemble, mover.teacher
    if mover.guard is not None:
        mover.guard.check_saved(ensemble.step)
    if isinstance(teacher, Shadow):
        mover.copy_student()
        teacher.save(runner, checkpoint)
    checkpoint[CHECKPOINT_KEY] = {
        'version': __version__,
        **writer,
        'seed': mover.seed or 0,
        'step': ensemble.step,
        'teacher': {
            'kind': teacher.kind,
            'path': teacher.path,
            'parts': dict(teacher.parts),
            'student': teacher.student_path,
        },
        'fp32': {name: average.cpu() for name, average in ensemble.smoother.fp32.items()},
        'recalibrated': list(mover.followed),
        'history': [dict(segment) for segment in mover.history.segments],
    }


def load_teacher(
    mover: Mover,
    runner: Runner,
    checkpoint: dict[str, Any],
    training: bool,
    reader: Mapping[str, Any],
) -> None:
    """Take the teacher's part out of a checkpoint, before the model loads the rest.

    The reader is what :func:`save_teacher` calls the writer. Raises OptionError for a record that
    was written by a newer version, or is damaged.
    """
    teacher, settings = mover.teacher, mover.ensemble.settings
    beside = 'ema_state_dict' in checkpoint
    if training and runner._resume:
        if isinstance(teacher, Shadow):
            teacher.resume(runner, checkpoint)
            # Before the first update the copy is there too, and is made once more.
            mover.started = beside and bool(checkpoint['ema_state_dict'].get('steps', 1))
        _resume(mover, runner, checkpoint, reader)
    elif isinstance(teacher, Shadow):
        if beside and not training and settings.evaluate_on in ('student', 'both'):
            teacher.load_both(checkpoint)
            mover.started = True
    elif settings.initial_teacher == 'loaded':
        state = checkpoint.get('state_dict', checkpoint)
        names = [name.removeprefix('module.') for name in state]
        mover.started = any(n.startswith(f'{part}.') for part in teacher.parts for n in names)


def _resume(
    mover: Mover, runner: Runner, checkpoint: Mapping[str, Any], reader: Mapping[str, Any]
) -> None:
    """Take over the record of a checkpoint, and warn of options that have changed."""
    saved, hook = read_record(checkpoint), reader['hook']
    if not mover.teacher.saved_with_steps:
        # A stock hook or model makes an update at every iteration.
        mover.ensemble.step = saved['step'] if saved else checkpoint['meta']['iter']
    if saved is None:
        runner.logger.info(f'{hook}: the checkpoint was written without it.')
        return
    mover.seed = saved['seed']
    mover.recalibrated = saved['recalibrated']
    mover.ensemble.restore(saved['fp32'])
    mover.history = History(saved['history'])
    changes = [] if saved['hook'] == hook else [f'{hook} (was {saved["hook"]})']
    before = {**Settings().plain(), **saved['options']}  # Options may have been added since.
    for key in {**before, **reader['options']}:
        now = reader['options'].get(key)
        if now != before.get(key):
            changes.append(f'{key}={now!r} (was {before.get(key)!r})')
    if changes:
        runner.logger.warning(
            f'{hook}: the checkpoint was written with other options: {", ".join(changes)}.'
        )


def read_record(checkpoint: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """The record in a checkpoint; None if another hook wrote it.

    Raises:
        OptionError: If it was written by a newer version, or is incomplete.
    """
    saved = checkpoint.get(CHECKPOINT_KEY)
    if saved is None:
        return None
    version = saved.get('version') if isinstance(saved, Mapping) else None
    try:
        newer = _numbers(version) > _numbers(__version__)
    except (AttributeError, ValueError):
        raise OptionError(
            f"the checkpoint's record of se_mm is damaged: its version is {version!r}"
        ) from None
    if newer:
        raise OptionError(
            f'the checkpoint needs se_mm {version}, and this is {__version__}: update se_mm'
        )
    saved = {**_ADDED, **saved}
    for key, kind in _TYPES.items():
        if not isinstance(saved.get(key), kind):
            raise OptionError(
                f"the checkpoint's record of se_mm is damaged: its {key} is {saved.get(key)!r}"
            )
    read_history(saved['history'], saved['step'])
    return saved


def _numbers(version: Any) -> list[int]:
    return [int(part) for part in version.split('.')]
