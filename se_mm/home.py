# SPDX-License-Identifier: Apache-2.0
"""Where the configs and tools are: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

_PACKAGE = Path(__file__).resolve().parent
# Where OpenMMLab looks for them in a package that is installed: see setup.py.
_MIM = _PACKAGE / '.mim'

HOME = _MIM if _MIM.is_dir() else _PACKAGE.parent
CONFIGS = HOME / 'configs'
TOOLS = HOME / 'tools'


def config_names(studies: bool = True) -> list[str]:
    """Names of the configs, with the folder of their family; ``studies`` are no trainings."""
    left_out = {'_base_'} if studies else {'_base_', 'studies'}
    found = [path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py')]
    return sorted(path.as_posix() for path in found if path.parts[0] not in left_out)


def bare_names() -> list[str]:
    """Names of the configs without the folder of their family, which are unique."""
    return [Path(name).name for name in config_names()]


def find_config(name: str) -> Optional[Path]:
    """The config of this name, with or without the folder of its family; None if there is none."""
    for known in config_names():
        if name in (known, Path(known).name):
            return CONFIGS / known
    return None
