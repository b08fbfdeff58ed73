# SPDX-License-Identifier: Apache-2.0
"""The README's code blocks work as they stand."""

import itertools
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, MODELS, TASK_UTILS, init_default_scope

from se_mm.engine import SETMAHook, SpatialEnsembleHook
from se_mm.engine.teachers import find_teacher

pytest.importorskip('mmpretrain')
ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


def commands():
    lines = '\n'.join(blocks('bash')).replace('\\\n', ' ').splitlines()
    return [line.split(' # ')[0].strip() for line in lines if line.strip()]


@pytest.mark.parametrize('block', blocks('python'), ids=range(len(blocks('python'))))
def test_config_block_loads_and_what_it_names_can_be_built(block, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(block)
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    hooks = [HOOKS.build(hook) for hook in cfg.get('custom_hooks', [])]
    if 'SemiSupervisedDataset' in block:
        teacher = find_teacher(MODELS.build(cfg.model))
        assert str(teacher) == 'teacher (pair) follows student'
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        assert dataset.source_sizes == [40, 1500]
    elif 'SoftTeacher' in str(cfg.get('model')):
        assert str(find_teacher(MODELS.build(cfg.model))) == 'teacher (pair) follows student'
        assert [type(hook).__name__ for hook in hooks] == ['SETMAHook', 'BurnInHook']
    elif 'model' in cfg:
        assert str(find_teacher(MODELS.build(cfg.model))).startswith('target_net')
        assert len(hooks) == ('custom_hooks' in block)
        assert all(isinstance(hook, (SETMAHook, SpatialEnsembleHook)) for hook in hooks)
    if 'bank' in cfg.get('val_cfg', {}):
        bank, evaluated = (
            DATASETS.build(loader.dataset) for loader in (cfg.val_cfg.bank, cfg.val_dataloader)
        )
        assert len(bank) == 1500 and len(evaluated) == 297
        assert [type(TASK_UTILS.build(probe)).__name__ for probe in cfg.val_cfg.probes] == [
            'KNNProbe',
            'LinearProbe',
        ]
    assert {'model', 'custom_hooks', 'val_cfg'} & set(cfg)


def recorder(folder, name):
    """A stand-in for an interpreter or a cluster's launcher, which writes down what it is given."""
    path = folder / name
    path.write_text(f'#!/bin/sh\nfor word in "$@"; do echo "$word" >> {folder}/words; done\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


@pytest.mark.parametrize('command', commands())
def test_command_is_one_that_exists(command, tmp_path):
    if command.startswith('make '):
        target = command.split()[1]
        result = subprocess.run(['make', '-n', target], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return
    # The launchers run for real, up to the interpreter; its words are then read as the tool does.
    python = recorder(tmp_path, 'python')
    recorder(tmp_path, 'srun')
    environment = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'PYTHON': str(python)}
    result = subprocess.run(
        ['bash', '-c', command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    words = (tmp_path / 'words').read_text().splitlines()
    tools = re.compile(r'(.*/)?tools/(?!torchrun)\w+\.py')
    (start,) = (i for i, word in enumerate(words) if tools.fullmatch(word))
    assert (ROOT / words[start]).is_file()
    if any('configs/' in word for word in words[start + 1 : start + 2]):
        assert (ROOT / words[start + 1]).is_file()
    code = """
import runpy, sys
from mmengine.config import Config
tool = runpy.run_path(sys.argv[1])
sys.argv[:] = sys.argv[1:]
args = vars(tool['parse_args']())
for path in args.get('configs') or filter(None, [args.get('config')]):
    Config.fromfile(path).merge_from_dict(args.get('cfg_options') or {})
"""
    parsed = subprocess.run(
        [sys.executable, '-c', code, *words[start:]], cwd=ROOT, capture_output=True, text=True
    )
    assert parsed.returncode == 0, parsed.stderr


def test_option_table_has_every_option_and_no_other():
    table = README.split('## Options')[1].split('With p the probability')[0]
    rows = re.findall(r'^\| (`.*?) \|', table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r'`(\w+)`', row.split('(')[0])}
    assert named == set(SETMAHook()._option_names())


def test_config_table_names_configs_that_exist_and_all_of_them():
    table = README.split('## Configs')[1].split('## What was')[0]
    written = set()
    for name in re.findall(r'`([\w.{},-]+)`', table):
        if name.startswith('...'):
            name = 'byol_sts_r50_8xb32' + name[3:]
        # Every second part is a list of choices.
        parts = re.split(r'{(.*?)}', name)
        written |= {''.join(chosen) for chosen in itertools.product(*(p.split(',') for p in parts))}
    assert written == {path.name for path in (ROOT / 'configs').glob('*.py')}
