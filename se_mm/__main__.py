# SPDX-License-Identifier: Apache-2.0
"""The tools from anywhere: ``python -m se_mm train byol_sts_conv5_1xb128_glyphs.py``.

A command is a tool of the folder ``tools``, with dashes for underscores. A config that is no file
is looked for among those that come with se_mm; ``python -m se_mm configs`` lists these.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from se_mm.home import TOOLS, bare_names, config_names, find_config
from se_mm.smoothing.options import did_you_mean
from se_mm.version import __version__

NO_COMMANDS = ('benchmarking', 'fixmatch_contestants', 'torchrun')
"""Files in ``tools`` that other tools import or start."""


def commands() -> dict[str, Path]:
    """Name of each command -> its tool."""
    tools = sorted([*TOOLS.glob('*.py'), *TOOLS.glob('*.sh')])
    return {path.stem.replace('_', '-'): path for path in tools if path.stem not in NO_COMMANDS}


def usage() -> str:
    """All commands, each with what the second line of its tool says."""
    lines = ['usage: python -m se_mm COMMAND [ARGUMENTS], COMMAND --help', '']
    for name, path in commands().items():
        said = path.read_text().splitlines()[1].strip('#" ').split(': ``')[0].rstrip('.')
        lines.append(f'  {name:<20}{said}.')
    lines.append(f'  {"configs":<20}List the configs that come with se_mm, or say where one is.')
    return '\n'.join(lines)


def show_configs(names: list[str]) -> int:
    """List the configs, or print the paths of some."""
    for name in names:
        if find_config(name) is None:
            hint = did_you_mean(name, bare_names())
            print(f'error: config={name!r} does not come with se_mm.{hint}', file=sys.stderr)
            return 2
    print('\n'.join(str(find_config(name)) for name in names) or '\n'.join(config_names()))
    return 0


def main() -> int:
    """Run a command; it ends the process itself, or returns the exit status."""
    name, *words = sys.argv[1:] or ['--help']
    if name in ('-h', '--help'):
        print(usage())
        return 0
    if name == '--version':
        print(f'se_mm {__version__}')
        return 0
    if name == 'configs':
        return show_configs(words)
    tools = commands()
    if name not in tools:
        hint = did_you_mean(name, [*tools, 'configs'])
        print(f'error: {name!r} is no command: python -m se_mm lists them.{hint}', file=sys.stderr)
        return 2
    tool = tools[name]
    if tool.suffix == '.sh':
        os.environ.setdefault('PYTHON', sys.executable)
        os.execvp('bash', ['bash', str(tool), *words])
    sys.argv = [str(tool), *words]
    runpy.run_path(str(tool), run_name='__main__')
    return 0


if __name__ == '__main__':
    sys.exit(main())
