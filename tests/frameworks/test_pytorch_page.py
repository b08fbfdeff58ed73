# SPDX-License-Identifier: Apache-2.0
"""`make test-frameworks`: the page about other frameworks, without OpenMMLab.

The environment has Lightning, timm and lightly, and neither MMEngine nor any library on it.
"""

import contextlib
import io
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / 'docs/pytorch.md'
FENCE = re.compile(r'```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?', re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.skipif(
    find_spec('lightning') is None, reason='`make test-frameworks` has Lightning, timm and lightly'
)


def test_every_script_of_the_page_runs_and_prints_what_it_says():
    scripts = FENCE.findall(PAGE.read_text())
    assert len(scripts) >= 5
    space = {'__name__': 'page'}
    for script, expected in scripts:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(script, str(PAGE), 'exec'), space)
        assert printed.getvalue() == expected
    assert {'lightning', 'timm', 'lightly'} <= set(sys.modules)


def test_nothing_of_openmmlab_is_imported():
    import se_mm.smoothing

    assert se_mm.smoothing.SpatialEnsemble
    assert not {'mmengine', 'mmcv', 'mmpretrain', 'mmdet'} & set(sys.modules)
