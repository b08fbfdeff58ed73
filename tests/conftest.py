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
