# SPDX-License-Identifier: Apache-2.0
"""Says in one line what a machine lacks for the environments that the Makefile makes."""

import shutil
import sys

LAST = {'floor': (3, 11)}  # torch 2.1 has no wheels for Python 3.12.

name = sys.argv[1] if len(sys.argv) > 1 else 'openmmlab'
first, last = (3, 10), LAST.get(name, (3, 12))
if not first <= sys.version_info[:2] <= last:
    sys.exit(
        f'error: Python {sys.version.split()[0]} is not supported here: 3.{first[1]} to 3.{last[1]}.
        ' f'Name another by `make PYTHON=python3.{last[1]} ...`.'
    )
if name == 'openmmlab' and not (shutil.which('c++') or shutil.which('g++')):
    sys.exit('error: mmcv has to be built, and there is no C++ compiler: install g++.')
