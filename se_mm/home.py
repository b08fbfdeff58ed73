# SPDX-License-Identifier: Apache-2.0
"""Where the configs and tools are: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# Where OpenMMLab looks for them in a package that is installed: see setup.py.
_MIM = _PACKAGE / '.mim'

HOME = _MIM if _MIM.is_dir() else _PACKAGE.parent
CONFIGS = HOME / 'configs'
TOOLS = HOME / 'tools'


def config_names() -> list[str]:
    """Names of the configs that come with this, studies with their folder."""
    found = [*CONFIGS.glob('*.py'), *CONFIGS.glob('studies/*.py')]
    return sorted(path.relative_to(CONFIGS).as_posix() for path in found)
