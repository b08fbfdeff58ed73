# SPDX-License-Identifier: Apache-2.0
"""Fixtures that start small runs (``tests/runs.py``); lets ``stock_configs`` be imported."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from tests.runs import byol_cfg, classifier_cfg, pair_cfg, runs  # noqa: F401
from tests.toys import toys  # noqa: F401
