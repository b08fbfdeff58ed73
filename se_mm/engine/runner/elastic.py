# SPDX-License-Identifier: Apache-2.0
"""Jobs whose launcher restarts the ranks when one of them dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Optional

from mmengine.config import Config

from se_mm.smoothing.options import OptionError


def resume_option(cfg: Config, resume: Optional[str]) -> Optional[str]:
    """What ``--resume`` becomes for ranks that ``tools/torchrun.py`` may have restarted.

    Restarted ranks resume from the newest checkpoint of the work dir, once their run has saved one.
    That it is not an earlier run's is checked at the first start.

    Args:
        cfg: The config of the run.
        resume: The option of the command line: None, ``'auto'`` or a path.

    Raises:
        OptionError: If ranks may be restarted, and the work dir has checkpoints of another run.
    """
    newest = Path(cfg.work_dir) / 'last_checkpoint'
    if not newest.is_file():
        return resume
    if int(os.environ.get('SE_MM_RESTART', 0)):
        return 'auto'
    source = resume
    if resume is None and cfg.get('resume'):
        source = cfg.get('load_from') or 'auto'
    name = newest.read_text().strip()
    if source == 'auto' or (source and os.path.realpath(source) == os.path.realpath(name)):
        return resume
    if int(os.environ.get('SE_MM_MAX_RESTARTS', 0)):
        raise OptionError(
            f'work_dir {cfg.work_dir!r} must have no checkpoints of another run with MAX_RESTARTS, '
            f'got {name!r}; use another --work-dir, or --resume'
        )
    if source is None and os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(
            f'warning: work_dir {cfg.work_dir!r} has checkpoints of an earlier run, which will be '
            f'overwritten; resume from them with --resume',
            file=sys.stderr,
        )
    return resume
