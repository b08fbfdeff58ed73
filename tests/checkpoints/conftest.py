# SPDX-License-Identifier: Apache-2.0
"""The small runs of tests/engine, of which checkpoints are read and published."""

import importlib.util
from pathlib import Path

_path = Path(__file__).parents[1] / 'engine/conftest.py'
_spec = importlib.util.spec_from_file_location('se_mm_tests_engine', _path)
_engine = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_engine)
runs = _engine.runs
