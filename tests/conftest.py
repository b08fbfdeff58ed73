# SPDX-License-Identifier: Apache-2.0
"""One thread for each process: tensors are small in tests, and threads wait for each other."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

os.environ.setdefault('OMP_NUM_THREADS', '1')
torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))

SLOW = (
    'tests/configs/test_detector_configs.py',
    'tests/engine/runner/test_launched_runs.py',
    'tests/engine/runner/test_launched_semi_supervised.py',
    'tests/studies/test_compare.py',
    'tests/test_packaging.py',
    'tests/tools/',
)
"""Tests that start many programs, as a user does: ``make test-slow`` runs them."""
QUICK = ('test_check_config.py', 'test_train.py')
"""What ``make test`` runs of them nevertheless."""


def pytest_collection_modifyitems(items):
    """Mark the slow tests."""
    root = Path(__file__).parents[1]
    for item in items:
        path = item.path.relative_to(root).as_posix()
        if path.startswith(SLOW) and not path.endswith(QUICK):
            item.add_marker(pytest.mark.slow)


def _browser():
    """``tests/browser.py``, which no package holds."""
    if 'se_mm_tests_browser' not in sys.modules:
        path = Path(__file__).parent / 'browser.py'
        spec = importlib.util.spec_from_file_location('se_mm_tests_browser', path)
        module = sys.modules['se_mm_tests_browser'] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules['se_mm_tests_browser']


@pytest.fixture
def open_page():
    """Opens an HTML file in a headless browser: see ``open_page`` in ``tests/browser.py``."""
    browser = _browser()
    if browser.find_browser() is None:
        pytest.skip('no Chromium is installed (CHROME names one), so the page is not opened')
    return browser.open_page
