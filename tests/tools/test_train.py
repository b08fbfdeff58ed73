# SPDX-License-Identifier: Apache-2.0
"""tools/train.py: what its options do, and how it ends."""

import json
import os
import signal

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device

import se_mm  # noqa: F401  (lets checkpoints load)

without_gpu = pytest.mark.skipif(get_device() != 'cpu', reason='there is a GPU')


def state_dict(path):
    """The weights of a checkpoint."""
    return torch.load(path, map_location='cpu', weights_only=True)['state_dict']


def logged(work_dir, key):
    """What the last run in a work dir logged under a key."""
    (*_, path) = sorted(work_dir.glob('*/vis_data/scalars.json'))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record[key] for record in records if key in record]


def test_run_is_kept_below_the_folder_it_was_started_in(trained):
    work_dir = trained.folder / 'work_dirs' / 'digits_config'
    names = {path.name for path in work_dir.iterdir() if path.is_file()}
    assert names == {'digits_config.py', 'iter_2.pth', 'iter_4.pth', 'last_checkpoint'}
    assert 'SETMAHook: a copy of the model (shadow) follows ImageClassifier' in trained.output
    assert Config.fromfile(work_dir / 'digits_config.py').train_cfg.max_iters == 4


def test_config_that_is_kept_is_the_users_own_and_not_what_a_machine_without_gpu_makes_of_it(
    trained,
):
    kept = Config.fromfile(trained.folder / 'work_dirs' / 'digits_config' / 'digits_config.py')
    assert kept.model.backbone.norm_cfg.type == 'SyncBN'
    assert 'model_wrapper_cfg' not in kept


def test_cfg_options_have_the_last_word(tools):
    output = tools.succeed(
        'train.py',
        tools.config,
        '--work-dir',
        'short',
        '--no-validate',
        '--cfg-options',
        'train_cfg.max_iters=2',
        'custom_hooks.0.keep_prob=0.25',
    )
    assert 'keep_prob 0.25' in output
    assert 'Epoch(val)' not in output
    assert (tools.folder / 'short/iter_2.pth').exists()
    assert not (tools.folder / 'short/iter_4.pth').exists()


def test_resume_goes_on_from_the_last_checkpoint_or_from_the_one_named(trained):
    whole = state_dict(trained.folder / 'work_dirs/digits_config/iter_4.pth')
    two = trained.folder / 'work_dirs/digits_config/iter_2.pth'
    trained.succeed('train.py', trained.config, '--work-dir', 'named', '--resume', two)
    assert logged(trained.folder / 'named', 'step') == [3, 4, 4]  # The last is the validation.
    (trained.folder / 'named/iter_4.pth').unlink()
    (trained.folder / 'named/last_checkpoint').write_text(str(two))
    trained.succeed('train.py', trained.config, '--work-dir', 'named', '--resume')
    resumed = state_dict(trained.folder / 'named/iter_4.pth')
    assert list(resumed) == list(whole)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_auto_scale_lr_follows_the_batch_size(tools):
    tools.succeed(
        'train.py',
        tools.config,
        '--auto-scale-lr',
        '--work-dir',
        'scaled',
        '--cfg-options',
        'auto_scale_lr.base_batch_size=16',
        'train_cfg.max_iters=1',
        'train_cfg.val_interval=1',
    )
    assert logged(tools.folder / 'scaled', 'lr') == [0.025]


@pytest.mark.parametrize(
    'args, said',
    [
        (['--resume', 'iter_4.pth'], "--resume='iter_4.pth' does not exist"),
        (['--auto-scale-lr'], '--auto-scale-lr needs auto_scale_lr.base_batch_size'),
        (['--cfg-options', 'load_from=iter_4.pth'], "load_from='iter_4.pth' does not exist"),
        (['--cfg-options', 'custom_hooks.0.keep_prob=1.5'], 'keep_prob=1.5 is not allowed'),
        (['--cfg-options', 'custom_hooks.0.keep_prb=0.5'], "Did you mean 'keep_prob'?"),
        (['--cfg-options', 'custom_hooks.0.begin_iter=4'], 'begin_iter=4 is beyond the run'),
        (['--cfg-options', 'custom_hooks.3.keep_prob=0.5'], '--cfg-options cannot be merged'),
        pytest.param(['--amp'], '--amp) needs a GPU', marks=without_gpu),
        pytest.param(['--launcher', 'slurm'], "launcher='slurm' needs a GPU", marks=without_gpu),
    ],
)
def test_wrong_option_is_one_line_before_the_first_iteration(tools, args, said):
    assert said in tools.fail('train.py', tools.config, *args)
    assert not list(tools.folder.glob('**/*.pth'))


@pytest.mark.parametrize(
    'name, text, said',
    [
        ('gone.py', None, "config='gone.py' does not exist: the path of a file. Did you mean 'gon"),
        ('syntax.py', 'model = = 1', "config='syntax.py' cannot be read: invalid syntax"),
        ('base.py', "_base_ = './lost.py'", 'lost.py'),
        ('empty.py', 'x = 1', 'has no model, train_dataloader, train_cfg, optim_wrapper'),
        (
            'imports.py',
            "custom_imports = dict(imports=['not_there'], allow_failed_imports=False)",
            "config='imports.py' cannot be read: No module named 'not_there'",
        ),
    ],
)
def test_config_that_cannot_be_read_is_one_line(tools, name, text, said):
    (tools.folder / 'gon.py').touch()
    if text is not None:
        (tools.folder / name).write_text(text)
    assert said in tools.fail('train.py', name)


def test_openmmlab_and_onedl_installed_together_is_one_line(tools):
    for name in ('mmengine', 'onedl_mmengine'):
        (tools.folder / f'{name}-1.0.dist-info').mkdir()
        (tools.folder / f'{name}-1.0.dist-info/METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n'
        )
    said = tools.fail('train.py', tools.config, PYTHONPATH=str(tools.folder))
    assert 'pip uninstall mmengine onedl-mmengine' in said.replace(' mmcv mmpretrain mmdet', '')


def test_other_error_keeps_its_traceback(tools):
    status, _, errors = tools.run(
        'train.py', tools.config, '--cfg-options', 'model.type=NoSuchModel'
    )
    assert status == 1
    assert 'Traceback' in errors and 'NoSuchModel is not in the' in errors


def test_ctrl_c_says_how_to_go_on(tools):
    process = tools.start('train.py', tools.config, '--cfg-options', 'train_cfg.max_iters=1000000')
    for line in process.stdout:
        if 'Saving checkpoint at 2 iterations' in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'Traceback' not in errors
    assert '--resume' in errors.splitlines()[-1]
