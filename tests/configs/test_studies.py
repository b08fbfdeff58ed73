# SPDX-License-Identifier: Apache-2.0
"""Each study in configs/studies is one that can be started: all its cells fit their configs."""

from pathlib import Path

import pytest

pytest.importorskip('mmpretrain')
import se_mm  # noqa: F401
from se_mm.evaluation.study import is_study, read_study

STUDIES = sorted((Path(__file__).parents[2] / 'configs/studies').glob('*.py'))


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_study_has_all_smoothings_with_their_controls_over_ten_seeds(path):
    assert is_study(str(path))
    study = read_study(str(path), None, None, {})
    assert len(study.seeds) >= 10
    for group in study.groups:
        names = {cell.name for cell in group.cells}
        assert {name.split()[0] for name in names} == {'none', 'TMA', 'SE', 'STS'}
        for cell in group.cells:
            assert not cell.note
            assert (cell.control in names) == cell.name.startswith(('SE', 'STS'))
        folders = {cell.folder for cell in group.cells}
        assert len(folders) == len(group.cells)
    assert f'python tools/compare.py configs/studies/{path.name}' in path.read_text()
