# SPDX-License-Identifier: Apache-2.0
"""Says in one line what a machine lacks for an environment: ``check_machine.py openmmlab``."""

import importlib.util
import os
import shutil
import sys
import sysconfig

# torch 2.1 has no wheels for Python 3.12.
FIRST, LAST = (3, 10), {'floor': (3, 11)}
BUILDS = ('openmmlab', 'libraries')
"""Environments for which mmcv is built."""


def problem(name):
    """What is missing for an environment, or None."""
    last = LAST.get(name, (3, 12))
    if not FIRST <= sys.version_info[:2] <= last:
        return (
            'Python {}.{} is not supported here, 3.{} to 3.{} are: '
            'name one by `make PYTHON=python3.{} ...`.'.format(
                *sys.version_info[:2], FIRST[1], last[1], last[1]
            )
        )
    if importlib.util.find_spec('ensurepip') is None:
        return 'this Python cannot make environments: install python3-venv.'
    if name in BUILDS:
        if not (shutil.which(os.environ.get('CXX', 'c++')) or shutil.which('g++')):
            return 'mmcv has to be built, and there is no C++ compiler: install g++.'
        if not os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h')):
            return 'mmcv has to be built, and Python.h is missing: install python3-dev.'
    return None


if __name__ == '__main__':
    found = problem(sys.argv[1])
    if found:
        sys.exit('error: ' + found)
