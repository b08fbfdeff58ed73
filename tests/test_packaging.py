# SPDX-License-Identifier: Apache-2.0
"""The wheel: what is in it, and that it trains from an empty directory; what describes it."""

import os
import re
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from se_mm import home
from se_mm.__main__ import commands
from se_mm.version import __version__
from tests.launched import SHRUNK

pytest.importorskip('mmpretrain')
ROOT = Path(__file__).parents[1]
CONFIG = 'fixmatch_sts_conv4_1xb32_digits-2.py'


def run(*words, **options):
    return subprocess.run(
        [*map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options
    )


def build(source, folder, kind):
    """Build a wheel or an sdist of a folder, and return its path."""
    code = f'import setuptools.build_meta as b; print(b.build_{kind}({str(folder)!r}))'
    folder.mkdir(parents=True, exist_ok=True)
    result = run(sys.executable, '-c', code, cwd=source)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / result.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    """The sdist, unpacked, as it is made of the files that git has."""
    folder = tmp_path_factory.mktemp('sdist')
    source = folder / 'source'
    # A copy, since a build leaves files beside the sources.
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(
            '.git',
            '.venv*',
            'work_dirs',
            'build',
            'dist',
            '*.egg-info',
            '*.so',
            '__pycache__',
            'site',
        ),
    )
    archive = build(source, folder / 'dist', 'sdist')
    shutil.unpack_archive(archive, folder / 'unpacked')
    (unpacked,) = (folder / 'unpacked').iterdir()
    return unpacked


@pytest.fixture(scope='module')
def wheel(sdist, tmp_path_factory):
    """A wheel that is built from the sdist."""
    return build(sdist, tmp_path_factory.mktemp('wheel'), 'wheel')


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Python of an environment that has the wheel, and of this one only what it needs."""
    folder = tmp_path_factory.mktemp('environment')
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    python = folder / 'bin/python'
    (place,) = folder.glob('lib/python*/site-packages')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    # Without the .pth files of this environment, of which one leads to the checkout.
    (place / 'needed.pth').write_text('\n'.join(site.getsitepackages()))
    return python


def test_sdist_has_all_that_the_tests_and_the_wheel_need(sdist):
    known = run('git', 'ls-files', cwd=ROOT)
    if known.returncode:
        pytest.skip('no git, which knows the files')
    for name in known.stdout.splitlines():
        if (ROOT / name).exists() and not name.startswith(('.git', '.pre-commit')):
            assert (sdist / name).exists(), name


def test_wheel_has_the_configs_the_tools_and_no_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ('configs', 'tools'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                assert f'se_mm/.mim/{path.relative_to(ROOT).as_posix()}' in names
    assert 'se_mm/.mim/model-index.yml' in names
    assert any(re.fullmatch(r'se_mm/smoothing/kernels/cpu_kernel.*\.so', name) for name in names)
    assert not [name for name in names if name.startswith(('tests/', 'docs/'))]
    # One for all Pythons from 3.10 on.
    assert re.search(rf'se_mm-{re.escape(__version__)}-cp310-abi3-\w+\.whl$', wheel.name)


def test_installed_wheel_trains_and_compares_from_an_empty_directory(installed, tmp_path):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}

    def said(*words):
        result = run(installed, *words, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    where = Path(said('-c', 'import se_mm; print(se_mm.__file__)').splitlines()[-1])
    assert installed.parents[1] in where.parents
    assert said('-m', 'se_mm', '--version').split() == ['se_mm', __version__]
    said('-m', 'se_mm', 'train', CONFIG, '--cfg-options', *SHRUNK)
    assert (tmp_path / 'work_dirs' / Path(CONFIG).stem / 'iter_2.pth').exists()
    words = ('--seeds', '0', '--smoothing', 'tma', '--cfg-options', *SHRUNK)
    assert 'TMA' in said('-m', 'se_mm', 'compare', CONFIG, *words)
    assert (tmp_path / 'work_dirs/compare/report.html').exists()


def test_commands_are_the_tools_and_unknown_ones_are_refused(tmp_path):
    assert {'train', 'test', 'compare', 'dist-train', 'publish-teacher'} <= set(commands())

    def se_mm(*words):
        return run(sys.executable, '-m', 'se_mm', *words, cwd=tmp_path)

    shown = se_mm().stdout
    assert all(f'  {name} ' in shown for name in [*commands(), 'configs'])
    result = se_mm('trian')
    assert result.returncode == 2 and "Did you mean 'train'?" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert se_mm('configs').stdout.splitlines() == home.config_names()
    path = se_mm('configs', CONFIG).stdout.strip()
    assert Path(path).is_file()
    result = se_mm('configs', CONFIG.replace('digits', 'digit'))
    assert result.returncode == 2 and f'Did you mean {CONFIG!r}?' in result.stderr
    result = se_mm('train', CONFIG.replace('digits', 'digit'))
    assert result.returncode == 2 and f'Did you mean {CONFIG!r}?' in result.stderr


def test_model_index_names_the_recipes_on_public_data():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index == {'Import': ['configs/metafile.yml']}
    metafile = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text())
    collections = [collection['Name'] for collection in metafile['Collections']]
    assert len(set(collections)) == len(collections)
    models = {model['Name']: model for model in metafile['Models']}
    assert len(models) == len(metafile['Models'])
    for name, model in models.items():
        assert model['In Collection'] in collections
        assert ROOT / model['Config'] == home.find_config(f'{name}.py')
        assert 'Results' not in model and 'Weights' not in model
    small = re.compile(r'_(conv\d|linear|r18)|short|glyphs|digits|folder|scenes|bccd')
    recipes = {
        Path(name).stem for name in home.config_names(studies=False) if not small.search(name)
    }
    others = {'linear_r50_8xb32', 'faster-rcnn_r50_8xb2_coco', 'mask-rcnn_r50_8xb2_coco'}
    assert set(models) == recipes - others


def test_version_is_one():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    assert {'cff-version', 'message', 'title', 'authors'} <= set(citation)
    assert citation['preferred-citation']['url'].endswith('2110.01253')
    newest = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert newest.group(1) == __version__
