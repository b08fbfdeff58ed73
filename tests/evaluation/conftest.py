# SPDX-License-Identifier: Apache-2.0
"""Lets the tests of this folder, and the processes that they start, import ``probe_runs``."""

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if find_spec('mmpretrain') is None:
    collect_ignore = ['test_linear_evaluation.py', 'test_probe_loop.py']
