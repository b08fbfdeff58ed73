# SPDX-License-Identifier: Apache-2.0
"""The environment is checked at import, with one clear line."""

import subprocess
import sys

import pytest

from se_mm.environment import EnvironmentProblem, check_environment, installed_distributions


def test_missing_mmengine_is_said_with_the_command_that_installs_it():
    with pytest.raises(EnvironmentProblem, match=r'pip install "se_mm\[openmmlab\]"'):
        check_environment({'torch', 'numpy'})


@pytest.mark.parametrize(
    'installed, to_remove',
    [
        ({'mmengine', 'onedl-mmengine'}, 'pip uninstall mmengine onedl-mmengine'),
        ({'mmengine', 'mmcv-lite', 'onedl-mmcv'}, 'pip uninstall mmengine mmcv-lite onedl-mmcv'),
        ({'onedl-mmengine', 'mmdet'}, 'pip uninstall mmdet onedl-mmengine'),
    ],
)
def test_two_distributions_of_one_library_are_refused_naming_both(installed, to_remove):
    with pytest.raises(EnvironmentProblem, match=to_remove) as error:
        check_environment(installed)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'installed',
    [
        {'mmengine', 'mmcv', 'mmpretrain', 'mmdet'},
        {'mmengine-lite'},
        {'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection'},
    ],
)
def test_one_distribution_of_each_is_accepted(installed):
    assert check_environment(installed) is None


def test_this_environment_is_seen_as_it_is():
    names = installed_distributions()
    assert 'torch' in names
    assert names & {'mmengine', 'onedl-mmengine'}


def test_import_without_mmengine_fails_by_that_line():
    code = (
        'import importlib.metadata as m; real = m.distributions; '
        "m.distributions = lambda: (d for d in real() if 'mmengine' not in d.metadata['Name']); "
        'import se_mm'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith('se_mm.environment.EnvironmentProblem: mmengine is not installed')


def test_import_needs_neither_mmpretrain_nor_mmdet_nor_mmcv():
    code = (
        'import sys; sys.modules.update(mmpretrain=None, mmdet=None, mmcv=None); import se_mm; '
        "from mmengine.registry import HOOKS; assert 'SETMAHook' in HOOKS"
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_smoothing_imports_nothing_of_openmmlab():
    code = (
        'import sys, types; package = types.ModuleType("se_mm"); '
        'import importlib.util as u; package.__path__ = list(u.find_spec("se_mm")'
        '.submodule_search_locations); sys.modules["se_mm"] = package; import se_mm.smoothing; '
        'assert not {"mmengine", "mmcv", "mmpretrain", "mmdet"} & set(sys.modules)'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
