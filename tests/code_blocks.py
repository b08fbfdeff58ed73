# SPDX-License-Identifier: Apache-2.0
"""The code blocks of the README and of the pages in docs/, tried as a reader would try them.

A ``python`` block with an import is a script: the scripts of a page are run in order. Any other is
a config, which is loaded as if it lay in ``configs/``; what it names is built. The lines of a
``bash`` block are commands, which are read by the tool that they name, and are run where the
comment ``<!-- run -->`` is above the block. A ``text`` block right after what is run is its output.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, MODELS, TASK_UTILS, init_default_scope

from se_mm.engine.check import check_config
from se_mm.engine.hooks import SpatialEnsembleHook
from se_mm.home import find_config
from se_mm.teachers import find_teacher

FRAMEWORKS = ('lightning', 'lightly', 'timm')
ROOT = Path(__file__).parents[1]
README = ROOT / 'README.md'
PAGES = sorted((ROOT / 'docs').rglob('*.md'))

_FENCE = re.compile(
    r'^(?P<run><!-- run -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```\n'
    r'(?:\n```text\n(?P<output>.*?)^```\n)?',
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
        place: The page and the line, for the name of a test.
        language: As written.
        text: What is in it.
        run: Whether its commands are run.
        output: What it prints; None where the page does not say.
    """

    place: str
    language: str
    text: str
    run: bool
    output: Optional[str]

    @property
    def is_script(self) -> bool:
        """Whether it is Python to be run, and not a config."""
        return bool(re.search(r'^(import|from) ', self.text, re.MULTILINE))

    @property
    def commands(self) -> list[str]:
        """Its lines, without comments."""
        lines = self.text.replace('\\\n', ' ').splitlines()
        return [line.split(' # ')[0].strip() for line in lines if line.strip()]


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page, outputs left out."""
    text = page.read_text()
    name = page.relative_to(ROOT).as_posix()
    blocks = []
    for match in _FENCE.finditer(text):
        indent = match['indent']
        code = ''.join(
            line.removeprefix(indent) for line in match['text'].splitlines(keepends=True)
        )
        place = f'{name}:{text.count(chr(10), 0, match.start("text"))}'
        blocks.append(Block(place, match['language'], code, bool(match['run']), match['output']))
    return blocks


def configs_of(pages: list[Path]) -> list:
    """The configs in some pages, each once, as parameters of a test."""
    found = {b.text: b for page in pages for b in blocks_of(page) if b.language == 'python'}
    return [pytest.param(b, id=b.place) for b in found.values() if not b.is_script]


def commands_of(pages: list[Path]) -> list:
    """The commands in some pages, each once, as parameters of a test."""
    found = {
        command: f'{block.place}-{index}'
        for page in pages
        for block in blocks_of(page)
        if block.language == 'bash'
        for index, command in enumerate(block.commands)
    }
    return [pytest.param(command, id=place) for command, place in found.items()]


def check_output(block: Block, printed: str) -> None:
    """Compare what was printed with what the page says; ``...`` is anything."""
    if block.output is None:
        return
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(block.output, printed, flags)
    assert same, f'{block.place}: the page says\n{block.output}\nand this is printed:\n{printed}'


def check_scripts(page: Path) -> None:
    """Run the scripts of a page in order, in one namespace.

    Those that import a framework which is not installed are left to `make test-frameworks`.
    """
    space: dict = {'__name__': 'page'}
    for block in blocks_of(page):
        imported = re.findall(r'^(?:import|from) (\w+)', block.text, re.MULTILINE)
        if any(name in FRAMEWORKS and find_spec(name) is None for name in imported):
            continue
        if block.language == 'python' and block.is_script:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, block.place, 'exec'), space)
            check_output(block, printed.getvalue())


def check_config_block(block: Block, folder: Path) -> None:
    """Load a config as if it lay beside the others, and build what can be built without data."""
    shutil.copytree(ROOT / 'configs', folder / 'configs')
    path = folder / 'configs' / 'block.py'
    path.write_text(block.text)
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    hooks = []
    for hook in cfg.get('custom_hooks') or []:
        # The runner takes the priority out of the line itself.
        hooks.append(HOOKS.build({key: hook[key] for key in hook if key != 'priority'}))
    whole = {'model', 'train_dataloader', 'train_cfg', 'optim_wrapper'} <= set(cfg)
    if whole and any(isinstance(hook, SpatialEnsembleHook) for hook in hooks):
        # All that `tools/check_config.py` finds: names, options, what the overrides match.
        assert re.search(r'^teacher: .+ follows .+', str(check_config(cfg)), re.MULTILINE)
    elif 'model' in cfg:
        # Stock, or without its data: the model has the teacher that the page speaks of.
        assert re.search('follows', str(find_teacher(MODELS.build(cfg.model))))
    if 'SemiSupervisedDataset' in block.text:
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        assert dataset.source_sizes == [40, 1500]
    if 'bank' in (cfg.get('val_cfg') or {}) and 'data/' not in block.text:
        bank, evaluated = (
            DATASETS.build(loader.dataset) for loader in (cfg.val_cfg.bank, cfg.val_dataloader)
        )
        assert len(bank) == 1500 and len(evaluated) == 297
        for probe in cfg.val_cfg.probes:
            TASK_UTILS.build(probe)
    assert {'model', 'custom_hooks', 'val_cfg'} & set(cfg), 'the block says nothing'


def checkout(folder: Path) -> Path:
    """A folder that is as the repository to a command, where what it writes can stay."""
    for name in ('configs', 'tools', 'se_mm', 'tests', 'docs', 'Makefile', 'setup.py'):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run_block(block: Block, folder: Path) -> None:
    """Run the commands of a block for real, and compare what they print."""
    environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}
    result = subprocess.run(
        ['bash', '-euc', '\n'.join(block.commands)],
        cwd=checkout(folder),
        env={**environment, 'OMP_NUM_THREADS': '1', 'COLUMNS': '100'},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    check_output(block, result.stdout)


def _recorder(folder: Path, name: str) -> Path:
    """A stand-in for an interpreter or a cluster's launcher, which writes down what it is given."""
    path = folder / name
    path.write_text(f'#!/bin/sh\nfor word in "$@"; do echo "$word" >> {folder}/words; done\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


@cache
def _tool(path: str) -> dict:
    return runpy.run_path(str(ROOT / path))


def check_command(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tool that a command names read its options, and load the configs among them."""
    if command.startswith('make '):
        target = command.split()[1]
        result = subprocess.run(['make', '-n', target], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return
    if command.startswith('pip install '):
        extras = re.findall(r'\.\[(\w+)\]', command)
        for extra in extras:
            assert f"'{extra}': [" in (ROOT / 'setup.py').read_text()
        assert extras or command.split()[-1] == '.'
        return
    # The launchers run for real, up to the interpreter; its words are then read as the tool does.
    python = _recorder(folder, 'python')
    _recorder(folder, 'srun')
    environment = {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}', 'PYTHON': str(python)}
    result = subprocess.run(
        ['bash', '-c', command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    words = (folder / 'words').read_text().splitlines()
    if words[:2] == ['-m', 'se_mm']:  # A tool by its name, with a config by its name.
        if words[2] == 'configs':
            return
        words = [f'tools/{words[2].replace("-", "_")}.py', *words[3:]]
    programs = re.compile(r'(.*/)?(tools|docs)/(?!torchrun)\w+\.py')
    start = next(index for index, word in enumerate(words) if programs.fullmatch(word))
    assert (ROOT / words[start]).is_file()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', words[start:])
    args = vars(_tool(words[start])['parse_args']())
    paths = args.get('configs') or [args.get('config')]
    for path in filter(None, paths):
        if not Path(path).exists():
            path = find_config(path)
        Config.fromfile(path).merge_from_dict(dict(args.get('cfg_options') or []))
