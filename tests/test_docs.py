# SPDX-License-Identifier: Apache-2.0
"""The pages of the site: their code blocks work as they stand, and they leave nothing out."""

import ast
import dataclasses
import importlib
import itertools
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.model import ExponentialMovingAverage
from torch import nn

pytest.importorskip('mmpretrain')
sys.path.insert(0, str(Path(__file__).parent))
from code_blocks import (
    PAGES,
    README,
    ROOT,
    blocks_of,
    check_command,
    check_config_block,
    check_scripts,
    commands_of,
    configs_of,
    run_block,
)

from se_mm.engine import SETMAHook, SpatialEnsembleHook
from se_mm.home import config_names
from se_mm.smoothing import Settings

DOCS = ROOT / 'docs'
MKDOCS = ROOT / '.venv-docs/bin/mkdocs'
SCRIPTS = [
    pytest.param(page, id=page.relative_to(DOCS).as_posix())
    for page in PAGES
    if any(block.language == 'python' and block.is_script for block in blocks_of(page))
]
RUN = [pytest.param(b, id=b.place) for page in PAGES for b in blocks_of(page) if b.run]
PACKAGES = [
    'se_mm.smoothing',
    'se_mm.engine',
    'se_mm.teachers',
    'se_mm.models',
    'se_mm.models.semi_supervised',
    'se_mm.datasets',
    'se_mm.evaluation',
]


@pytest.mark.parametrize('block', configs_of(PAGES))
def test_config_block_loads_and_what_it_names_can_be_built(block, tmp_path):
    check_config_block(block, tmp_path)


@pytest.mark.parametrize('page', SCRIPTS)
def test_scripts_run_and_print_what_the_page_says(page):
    check_scripts(page)


@pytest.mark.parametrize('command', commands_of(PAGES))
def test_command_is_one_that_exists(command, tmp_path, monkeypatch):
    check_command(command, tmp_path, monkeypatch)


@pytest.mark.parametrize('block', RUN)
def test_commands_that_are_cheap_run_and_print_what_the_page_says(block, tmp_path):
    run_block(block, tmp_path)


def test_every_block_is_of_a_language_that_is_tried():
    for page in [README, *PAGES]:
        for block in blocks_of(page):
            assert block.language in ('python', 'bash', 'text', ''), block.place
            assert not block.run or block.language == 'bash', block.place
        fences = len(re.findall(r'^ *```', page.read_text(), re.MULTILINE))
        answered = sum(block.output is not None for block in blocks_of(page))
        assert fences == 2 * (len(blocks_of(page)) + answered), f'{page}: a fence is open'


def tables(heading, end):
    """The table under a heading, in each file that has it: the page, and the README as well."""
    found = {}
    for path in [README, *PAGES]:
        text = '\n' + path.read_text()
        if heading in text:
            found[path.name] = text.split(heading)[1].split(end)[0]
    assert len(found) >= 1
    return found


def test_options_stand_in_one_place():
    documented = Settings.__doc__.split('Attributes:')[1].split('Raises:')[0]
    names = re.findall(r'^ {8}(\w+): ', documented, re.MULTILINE)
    assert names == [option.name for option in dataclasses.fields(Settings)]
    rendered = [
        page.name for page in PAGES if '::: se_mm.smoothing.settings.Settings' in page.read_text()
    ]
    assert rendered == ['options.md']


def test_option_table_has_every_option_and_its_default():
    ((_, table),) = tables('\n| option | default |', '\n\n').items()
    rows = re.findall(r'^\| `(\w+)` \| (.+?) \|', table, re.MULTILINE)
    options = {option.name: option for option in dataclasses.fields(Settings)}
    assert [name for name, _ in rows] == list(options)
    hooks = SpatialEnsembleHook, SETMAHook
    for name, written in rows:
        default = getattr(Settings(), name)
        if name == 'keep_prob':
            assert written == '{} for SE, {} for STS'.format(*(h.defaults[name] for h in hooks))
        elif default is None or name == 'momentum':  # That of SETMAHook.
            assert written.startswith('None: ')
        else:
            assert written == f'`{default!r}`'
    assert SETMAHook.defaults['momentum'] is None


def pair():
    """A model with a student and a teacher."""
    model = nn.Module()
    model.student, model.teacher = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    return model


def averaged(**options):
    """A model with an averaged model."""
    model = nn.Module()
    model.net = nn.BatchNorm1d(2)
    model.target = ExponentialMovingAverage(model.net, **options)
    return model


def test_table_of_the_default_of_buffers_is_what_the_hooks_do():
    ((_, table),) = tables('\n| teacher | SE | STS | TMA', '\n\n').items()
    policies = [re.findall(r"`'(\w+)'`", row) for row in table.splitlines()[2:]]
    found = [
        [
            hook.bind(model).smoother.buffers
            for hook in (SpatialEnsembleHook(), SETMAHook(), SETMAHook(keep_prob=0))
        ]
        for model in (pair(), averaged(), averaged(update_buffers=True))
    ]
    assert policies == found


def texts():
    """A pattern for each text in the package, in which what is filled in may be anything."""
    for path in (ROOT / 'se_mm').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            fixed = [
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ''
                for part in parts
            ]
            if len(''.join(fixed)) > 15:  # Less would match almost anything.
                yield re.compile('.*'.join(map(re.escape, fixed)))


def test_messages_of_the_troubleshooting_page_are_those_of_the_package():
    blocks = blocks_of(DOCS / 'troubleshooting.md')
    messages = [line for block in blocks for line in block.text.splitlines()]
    assert len(messages) >= 12
    known = list(texts())
    gone = [m for m in messages if not any(text.fullmatch(m) for text in known)]
    assert gone == []


def test_config_table_names_configs_that_exist_and_all_of_them():
    for page, table in tables('\n| config |', '\n\n').items():
        written = set()
        for name in re.findall(r'`([\w.{},-]+\.py)`', table):
            if name.startswith('...'):
                name = 'byol_sts_r50_8xb32' + name[3:]
            # Every second part is a list of choices.
            parts = re.split(r'{(.*?)}', name)
            written |= {
                ''.join(chosen) for chosen in itertools.product(*(p.split(',') for p in parts))
            }
        assert written == {Path(name).name for name in config_names(studies=False)}, page


@pytest.mark.parametrize('package', PACKAGES)
def test_api_pages_have_every_public_name(package):
    pages = '\n'.join(page.read_text() for page in (DOCS / 'api').glob('*.md'))
    # The options have a page of their own.
    written = set(re.findall(r'^::: (\S+)', pages, re.M)) | {'se_mm.smoothing.Settings'}
    module = importlib.import_module(package)
    for name in module.__all__:
        if not hasattr(getattr(module, name), '__path__'):  # Not a package.
            assert f'{package}.{name}' in written


def test_navigation_has_every_page_once():
    def paths(entries):
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else paths(value)

    named = list(paths(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav']))
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_pictures_of_the_method_can_be_drawn_again_and_all_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['pictures.py', '--out', str(tmp_path)])
    runpy.run_path(str(DOCS / 'pictures.py'), run_name='__main__')
    kept = {path.name for path in (DOCS / 'pictures').iterdir()}
    assert {path.name for path in tmp_path.iterdir()} <= kept
    pages = '\n'.join(page.read_text() for page in PAGES)
    for name in kept:
        assert f'pictures/{name})' in pages, f'no page shows {name}'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site, built as `make docs` does; it has an environment of its own."""
    if not MKDOCS.exists():
        pytest.skip('`make docs` has not been run, which makes the environment of the site')
    folder = tmp_path_factory.mktemp('site')
    result = subprocess.run(
        [MKDOCS, 'build', '--strict', '--site-dir', folder],
        cwd=ROOT,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_site_has_no_reference_that_leads_nowhere_and_asks_for_nothing(site):
    for path in site.rglob('*.html'):
        text = path.read_text()
        asked = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]*)"', text)
        asked += re.findall(r'<link[^>]* rel="(?:stylesheet|preconnect)"[^>]* href="([^"]*)"', text)
        assert not [address for address in asked if re.match(r'(https?:)?//', address)], path.name
        # Roles and tables of reStructuredText would be seen as they are.
        assert not re.search(r':(?:class|func|meth|attr|mod|data):<|={5} ={5}', text), path.name


@pytest.mark.parametrize('width', [1280, 390])
@pytest.mark.parametrize('page', ['index', 'method', 'options', 'api/engine'])
def test_page_opens_without_a_network(site, open_page, page, width):
    opened = open_page(site / f'{page}.html', width=width)
    assert opened.errors == []
    assert [address for address in opened.requests if not address.startswith('file:')] == []
    assert all(drawn and alt for drawn, alt in opened.images)
    assert not opened.overflows
