# SPDX-License-Identifier: Apache-2.0
"""Each study in configs/studies is one that can be started: all its cells fit their configs."""

from pathlib import Path

import pytest

pytest.importorskip('mmpretrain')
import se_mm  # noqa: F401
from se_mm.studies.comparison import MIN_SEEDS
from se_mm.studies.study import make_study, read_study

STUDIES = sorted((Path(__file__).parents[2] / 'configs/studies').glob('*.py'))


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_study_has_all_smoothings_with_their_controls_over_enough_seeds(path):
    study = make_study(read_study(str(path)))
    assert len(study.seeds) >= MIN_SEEDS
    for cells in study.groups.values():
        names = {cell.name for cell in cells}
        assert {name.split()[0] for name in names} >= {'TMA', 'SE', 'STS'}
        for cell in cells:
            assert (cell.control in names) == cell.name.startswith(('SE', 'STS'))
        folders = {cell.folder for cell in cells}
        assert len(folders) == len(cells)
    assert f'python tools/compare.py configs/studies/{path.name}' in path.read_text()
