# SPDX-License-Identifier: Apache-2.0
"""What the tools make of a command line and a config, and what they refuse in one line."""

import argparse
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device

from se_mm.engine.launch import (
    add_common_options,
    build_runner,
    load_config,
    merge_options,
    resume_from,
)
from se_mm.engine.runner.cpu import CPUAmpOptimWrapper
from se_mm.smoothing.options import OptionError

without_gpu = pytest.mark.skipif(get_device() != 'cpu', reason='there is a GPU')


def parsed(*arguments):
    """A command line, parsed."""
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_common_options(parser)
    return parser.parse_args(arguments)


def test_work_dir_is_the_option_else_the_configs_else_its_name(tmp_path):
    (tmp_path / 'named.py').write_text('model = dict()')
    (tmp_path / 'own.py').write_text("work_dir = 'mine'")

    def work_dir(name, *options):
        return load_config(parsed(str(tmp_path / name), *options), []).work_dir

    assert work_dir('named.py') == './work_dirs/named'
    assert work_dir('own.py') == 'mine'
    assert work_dir('own.py', '--work-dir', 'given') == 'given'


@pytest.mark.parametrize(
    'text, error, said',
    [
        ('model = = 1', SyntaxError, 'syntax'),
        ('model = 1 / none', NameError, "name 'none' is not defined"),
        ("_base_ = './lost.py'", FileNotFoundError, 'lost.py'),
        ('train_cfg = dict()', OptionError, 'must have model, optim_wrapper'),
    ],
)
def test_error_in_a_config_stays_what_it_is_and_a_missing_part_is_one_line(
    tmp_path, text, error, said
):
    (tmp_path / 'config.py').write_text(text)
    with pytest.raises(error, match=said):
        load_config(parsed(str(tmp_path / 'config.py')), ['model', 'train_cfg', 'optim_wrapper'])


def test_option_that_leads_nowhere_is_refused():
    cfg = Config(dict(custom_hooks=[dict(type='SETMAHook')]))
    with pytest.raises(OptionError, match='--cfg-options cannot be merged'):
        merge_options(cfg, parsed('config.py', '--cfg-options', 'custom_hooks.3.keep_prob=0.5'))


def test_loaders_get_what_mmpretrains_tools_give_them_and_others_stay():
    def merged(scope):
        cfg = Config(dict(default_scope=scope, train_dataloader=dict(num_workers=2)))
        merge_options(cfg, parsed('config.py', '--no-pin-memory'))
        return cfg.train_dataloader

    assert merged('mmpretrain') == dict(
        num_workers=2,
        collate_fn=dict(type='default_collate'),
        persistent_workers=True,
        pin_memory=False,
    )
    assert merged('mmdet') == dict(num_workers=2, pin_memory=False)


def test_loader_without_workers_keeps_none():
    cfg = Config(dict(val_dataloader=dict(num_workers=0, persistent_workers=True)))
    merge_options(cfg, parsed('config.py'))
    assert cfg.val_dataloader.persistent_workers is False


def test_resume_of_a_path_or_of_the_last_takes_the_place_of_load_from(tmp_path):
    (tmp_path / 'start.pth').touch()
    (tmp_path / 'iter_2.pth').touch()

    def resumed(resume):
        cfg = Config(dict(load_from=str(tmp_path / 'start.pth')))
        resume_from(cfg, resume)
        return cfg.get('resume', False), cfg.load_from

    assert resumed(None) == (False, str(tmp_path / 'start.pth'))
    # Where the work dir has no checkpoint, the run starts from load_from.
    assert resumed('auto') == ('auto', str(tmp_path / 'start.pth'))
    assert resumed(str(tmp_path / 'iter_2.pth')) == (True, str(tmp_path / 'iter_2.pth'))


def test_checkpoint_that_does_not_exist_is_refused_by_the_name_of_its_option(tmp_path):
    (tmp_path / 'iter_4.pth').touch()
    lost = str(tmp_path / 'itr_4.pth')
    with pytest.raises(
        OptionError, match=r'--resume file .* does not exist.* Did you mean .*iter_4'
    ):
        resume_from(Config(dict()), lost)
    with pytest.raises(OptionError, match=r'load_from file .* does not exist'):
        resume_from(Config(dict(load_from=lost)), None)
    resume_from(Config(dict(load_from='https://some.where/iter_4.pth')), None)  # Not looked for.


def test_automatic_resume_of_a_runner_of_the_users_is_openmmlabs(tmp_path):
    cfg = Config(dict(load_from='start.pth', runner_type='MyRunner'))
    resume_from(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (True, None)


def test_misspelt_hook_is_refused_by_the_right_name():
    with pytest.raises(OptionError, match=r"unknown type='SETMHook'.*'SETMAHook'"):
        build_runner(Config(dict(custom_hooks=[dict(type='SETMHook')])))


@without_gpu
def test_launcher_that_needs_a_gpu_is_refused_without_one():
    with pytest.raises(OptionError, match="'pytorch' without a GPU, got 'slurm'"):
        build_runner(Config({'launcher': 'slurm'}))


@pytest.mark.parametrize('dtype', ['float16', 'float32'])
def test_mixed_precision_of_the_cpu_is_bfloat16(dtype):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    with pytest.raises(OptionError, match=f"optim_wrapper.dtype must be .*got '{dtype}'"):
        CPUAmpOptimWrapper(optimizer=optimizer, dtype=dtype)
    wrapper = CPUAmpOptimWrapper(optimizer=optimizer, loss_scale='dynamic')
    with wrapper.optim_context(torch.nn.Identity()):
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16
    assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32


def test_error_of_a_worker_process_is_one_line():
    code = (
        'from se_mm.engine.launch import run_tool\n'
        'from se_mm.smoothing.options import OptionError\n'
        'def main():\n'
        "    raise OptionError('Caught in worker.\\nTraceback\\nse_mm.a.OptionError: lost it.')\n"
        "run_tool(main, 'interrupted')\n"
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == 'error: lost it.'
