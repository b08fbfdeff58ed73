# SPDX-License-Identifier: Apache-2.0
"""The record of a hook in a checkpoint: save, load and validate it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.utils import digit_version

from se_mm.history.segments import History, read_history
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.settings import Settings
from se_mm.teachers import Shadow, Updater
from se_mm.version import __version__

CHECKPOINT_KEY = 'se_mm'
"""The key of the record in a checkpoint."""

# What the picks depend on besides the state dict, and what publishing needs.
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
_ADDED: Mapping[str, Any] = {'recalibrated': []}  # Not in older records.


def save_teacher(
    updater: Updater, runner: Runner, checkpoint: dict[str, Any], writer: Mapping[str, Any]
) -> None:
    """Add a record to a checkpoint, and a teacher that is a copy of the model.

    ``writer`` has the hook's name and its options in plain types. Raises TeacherFault if student or
    teacher is not finite.
    """
    ensemble, teacher = updater.ensemble, updater.teacher
    if updater.guard is not None:
        updater.guard.check_saved(ensemble.step)
    if isinstance(teacher, Shadow):
        updater.copy_student()
        teacher.save(runner, checkpoint)
    checkpoint[CHECKPOINT_KEY] = {
        'version': __version__,
        **writer,
        'seed': updater.seed or 0,
        'step': ensemble.step,
        'teacher': {
            'kind': teacher.kind,
            'path': teacher.path,
            'parts': dict(teacher.parts),
            'student': teacher.student_path,
        },
        'fp32': {name: average.cpu() for name, average in updater.smoother.fp32.items()},
        'recalibrated': list(updater.training_statistics),
        'history': [dict(segment) for segment in updater.history.segments],
    }


def load_teacher(
    updater: Updater, runner: Runner, checkpoint: dict[str, Any], reader: Mapping[str, Any]
) -> None:
    """Load the teacher from a checkpoint, before the model loads the rest.

    ``reader`` is the ``writer`` of :func:`save_teacher` for the present hook. Raises OptionError
    for a record that is damaged or from a newer version.
    """
    teacher, settings = updater.teacher, updater.ensemble.settings
    training = isinstance(runner._train_loop, BaseLoop)
    has_copy = 'ema_state_dict' in checkpoint
    if training and runner._resume:
        if isinstance(teacher, Shadow):
            teacher.resume(runner, checkpoint)
            # A checkpoint from before the first update has a copy too.
            updater.started = has_copy and bool(checkpoint['ema_state_dict'].get('steps', 1))
        _resume(updater, runner, checkpoint, reader)
    elif isinstance(teacher, Shadow):
        if has_copy and not training and settings.evaluate_on in ('student', 'both'):
            teacher.load_both(checkpoint)
            updater.started = True
    elif settings.initial_teacher == 'loaded':
        state = checkpoint.get('state_dict', checkpoint)
        names = [name.removeprefix('module.') for name in state]
        updater.started = any(n.startswith(f'{part}.') for part in teacher.parts for n in names)


def _resume(
    updater: Updater, runner: Runner, checkpoint: Mapping[str, Any], reader: Mapping[str, Any]
) -> None:
    """Restore the record of a checkpoint, and warn of changed options."""
    saved, hook = read_record(checkpoint), reader['hook']
    if updater.teacher.averaged is None:  # The model does not count the updates.
        # A stock hook or model makes an update at every iteration.
        updater.ensemble.step = saved['step'] if saved else checkpoint['meta']['iter']
    if saved is None:
        runner.logger.info(f'{hook}: the checkpoint was written without it.')
        return
    updater.seed = saved['seed']
    updater.recalibrated = saved['recalibrated']
    updater.ensemble.restore(saved['fp32'])
    updater.history = History(saved['history'])
    changes = [] if saved['hook'] == hook else [f'{hook} (was {saved["hook"]})']
    before = {**Settings().plain(), **saved['options']}  # New versions may have added options.
    for key, now in reader['options'].items():
        if now != before[key]:
            changes.append(f'{key}={now!r} (was {before[key]!r})')
    if changes:
        runner.logger.warning(
            f'{hook}: the checkpoint was written with other options: {", ".join(changes)}.'
        )


def read_record(checkpoint: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """The record in a checkpoint; None if another hook wrote it.

    Raises:
        OptionError: If it is from a newer version, or damaged.
    """
    saved = checkpoint.get(CHECKPOINT_KEY)
    if saved is None:
        return None
    version = saved.get('version') if isinstance(saved, Mapping) else None
    try:
        newer = digit_version(version) > digit_version(__version__)
    except (TypeError, ValueError):
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
