# SPDX-License-Identifier: Apache-2.0
"""Lets ``make test`` skip this folder, and only where none of the libraries is installed."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from importing import LIBRARIES, is_installed

INSTALLED = [library for library in LIBRARIES if is_installed(library)]
# mmengine 0.10.7 does not resume with PyTorch 2.6 and later unless this is set.
FORCED = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


def pytest_collection_modifyitems(items):
    """Skip what has no library at all; in their own environment a missing one is an error."""
    if INSTALLED:
        return
    folder = Path(__file__).parent
    skip = pytest.mark.skip(reason='of other libraries: `make test-libraries` has them')
    for item in items:
        if folder in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope='session', autouse=True)
def resumable():
    """Lets the stock Runner resume."""
    before = os.environ.get(FORCED)
    os.environ[FORCED] = '1'
    yield
    if before is None:
        del os.environ[FORCED]
    else:
        os.environ[FORCED] = before
