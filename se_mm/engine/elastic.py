# SPDX-License-Identifier: Apache-2.0
"""Jobs whose launcher starts the ranks again when one of them dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Optional

from mmengine.config import Config

from se_mm.smoothing.options import OptionError


def resume_option(cfg: Config, resume: Optional[str]) -> Optional[str]:
    """What ``--resume`` is to be, for ranks that may have been started again by torchrun.

    Ranks that were go on from the newest checkpoint of the work dir, as soon as their run has
    written one. That it is their run's, and not an earlier one's, is seen to at the first start.

    Args:
        cfg: The config of the run.
        resume: What the command line has: None, ``'auto'`` or a path.

    Raises:
        OptionError: If the ranks may be started again, and the work dir has a newest checkpoint
            that the run does not go on from.
    """
    newest = Path(cfg.work_dir) / 'last_checkpoint'
    if not newest.is_file():
        return resume
    if int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)):
        return 'auto'
    source = resume
    if resume is None and cfg.get('resume'):
        source = cfg.get('load_from') or 'auto'
    name = newest.read_text().strip()
    if source == 'auto' or (source and os.path.realpath(source) == os.path.realpath(name)):
        return resume
    if int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)):
        raise OptionError(
            f'work_dir={cfg.work_dir!r} has checkpoints of another run, the newest of them '
            f'{name!r}, from which ranks that are started again would go on: another --work-dir, '
            f'--resume, or no MAX_RESTARTS.'
        )
    if source is None and os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(
            f'warning: work_dir={cfg.work_dir!r} has checkpoints of an earlier run, which this one '
            f'writes over: --resume goes on from them.',
            file=sys.stderr,
        )
    return resume
