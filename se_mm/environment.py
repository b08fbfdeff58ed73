# SPDX-License-Identifier: Apache-2.0
"""What se_mm runs in: whether this Python has what it needs, and on which processor it is."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Collection
from importlib.metadata import distributions
from pathlib import Path
from typing import Optional

OPENMMLAB = ('mmengine', 'mmcv', 'mmcv-lite', 'mmpretrain', 'mmdet')
"""The OneDL forks install the same import names: together, each overwrites files of the other."""


class EnvironmentProblem(ImportError):
    """What se_mm needs is not installed, or installed twice. The message is one line."""


def installed_distributions() -> set[str]:
    """Normalised names of all distributions that this Python can import."""
    names = (distribution.metadata['Name'] for distribution in distributions())
    return {name.lower().replace('_', '-') for name in names if name}


def check_environment(installed: Optional[Collection[str]] = None) -> None:
    """Raise EnvironmentProblem if MMEngine is missing, or libraries overwrite each other.

    Args:
        installed: Names of the installed distributions; None asks the environment.
    """
    installed = installed_distributions() if installed is None else installed
    if not {'mmengine', 'mmengine-lite', 'onedl-mmengine'} & set(installed):
        raise EnvironmentProblem('mmengine is not installed: run `pip install "se_mm[openmmlab]"`')
    openmmlab = [name for name in OPENMMLAB if name in installed]
    onedl = sorted(name for name in installed if name.startswith('onedl-mm'))
    if openmmlab and onedl:
        raise EnvironmentProblem(
            f'OpenMMLab ({", ".join(openmmlab)}) and OneDL ({", ".join(onedl)}) are both installed '
            f'and overwrite each other: run `pip uninstall {" ".join(openmmlab + onedl)}`, then '
            f'install one of them'
        )


def processor() -> str:
    """The name of the processor, or only its kind where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.machine()
