# SPDX-License-Identifier: Apache-2.0
"""tools/train.py: what its options do, and how it ends."""

import json
import os
import signal

import pytest
import torch
from mmengine.config import Config


def state_dict(path):
    """The weights of a checkpoint."""
    return torch.load(path, map_location='cpu', weights_only=True)['state_dict']


def logged(work_dir, key):
    """What the iterations of the last run in a work dir logged under a key."""
    (*_, path) = sorted(work_dir.glob('*/vis_data/scalars.json'))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record[key] for record in records if 'loss' in record]


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


def test_options_change_the_run_and_cfg_options_have_the_last_word(tools):
    output = tools.succeed(
        'train.py',
        tools.config,
        '--work-dir',
        'short',
        '--no-validate',
        '--auto-scale-lr',
        '--cfg-options',
        'train_cfg.max_iters=2',
        'custom_hooks.0.keep_prob=0.25',
        'auto_scale_lr.base_batch_size=16',
    )
    assert 'keep_prob 0.25' in output
    assert 'Epoch(val)' not in output
    assert logged(tools.folder / 'short', 'lr') == [0.025, 0.025]  # 0.05 at a batch of 16.
    assert not (tools.folder / 'short/iter_4.pth').exists()


def test_resume_goes_on_from_the_last_checkpoint_and_ends_as_the_whole_run(trained):
    finished = trained.folder / 'work_dirs/digits_config'
    (trained.folder / 'half').mkdir()
    (trained.folder / 'half/last_checkpoint').write_text(str(finished / 'iter_2.pth'))
    trained.succeed('train.py', trained.config, '--work-dir', 'half', '--resume')
    assert logged(trained.folder / 'half', 'step') == [3, 4]
    whole = state_dict(finished / 'iter_4.pth')
    resumed = state_dict(trained.folder / 'half/iter_4.pth')
    assert list(resumed) == list(whole)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_option_that_does_not_exist_is_one_line_before_the_first_iteration(tools):
    options = ['--cfg-options', 'custom_hooks.0.keep_prb=0.5']
    assert "Did you mean 'keep_prob'?" in tools.fail('train.py', tools.config, *options)
    assert not list(tools.folder.glob('**/*.pth'))


def test_config_that_does_not_exist_is_one_line_naming_the_nearest(tools):
    (tools.folder / 'byol.py').touch()
    said = "error: config file 'boyl.py' does not exist. Did you mean 'byol.py'?"
    assert tools.fail('train.py', 'boyl.py') == said


def test_openmmlab_and_onedl_installed_together_is_one_line(tools):
    for name in ('mmengine', 'onedl_mmengine'):
        (tools.folder / f'{name}-1.0.dist-info').mkdir()
        (tools.folder / f'{name}-1.0.dist-info/METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n'
        )
    said = tools.fail('train.py', tools.config, PYTHONPATH=str(tools.folder))
    assert 'onedl-mmengine' in said
    assert 'both installed' in said
    assert 'pip uninstall mmengine' in said


@pytest.mark.parametrize(
    'option, said',
    [
        ('model.type=ImageClasifier', 'ImageClasifier is not in the'),
        ('train_dataloader.dataset.type=Digitz', 'Digitz is not in the'),
        ('optim_wrapper.optimizer.lr=-1', 'Invalid learning rate'),
    ],
)
def test_error_of_a_library_keeps_its_traceback_and_status(tools, option, said):
    status, _, errors = tools.run('train.py', tools.config, '--cfg-options', option)
    assert status == 1
    assert 'Traceback' in errors and said in errors and 'error: ' not in errors


def test_automatic_resume_of_an_empty_folder_starts_from_load_from(trained):
    start = trained.folder / 'work_dirs/digits_config/iter_2.pth'
    output = trained.succeed(
        'train.py',
        trained.config,
        '--work-dir',
        'from_start',
        '--resume',
        '--cfg-options',
        f'load_from={start}',
        'train_cfg.max_iters=1',
    )
    assert f'the run starts from {start}' in output
    assert f'Load checkpoint from {start}' in output


def test_weights_of_another_model_are_one_line_before_the_first_iteration(tools):
    torch.save({'state_dict': {'encoder.weight': torch.ones(2)}}, tools.folder / 'other.pth')
    said = tools.fail('train.py', tools.config, '--cfg-options', 'load_from=other.pth')
    assert "checkpoint 'other.pth' must have the parameters of ImageClassifier" in said


NO_PIPELINE = ['--cfg-options', 'val_dataloader.dataset.pipeline=[]']


def test_validation_that_fails_keeps_its_traceback_and_comes_before_training(tools):
    status, output, errors = tools.run('train.py', tools.config, *NO_PIPELINE)
    assert status == 1
    assert 'Traceback' in errors and 'error: ' not in errors
    assert '--no-check skips it' in output + errors
    assert 'Epoch(train)' not in output


def test_error_after_an_iteration_keeps_its_traceback(tools):
    status, output, errors = tools.run('train.py', tools.config, '--no-check', *NO_PIPELINE)
    assert status == 1
    assert 'Traceback' in errors and 'error: ' not in errors
    assert 'Epoch(train) [1][4/6]' in output


def test_metric_that_does_not_exist_is_one_line_before_the_first_iteration(tools):
    options = ['--cfg-options', 'default_hooks.checkpoint.save_best=acuracy/top1']
    said = tools.fail('train.py', tools.config, *options)
    assert 'default_hooks.checkpoint.save_best must be a metric of the validation' in said
    assert "Did you mean 'accuracy/top1'?" in said
    assert not list(tools.folder.glob('**/*.pth'))


def test_ctrl_c_says_how_to_go_on(tools):
    process = tools.start('train.py', tools.config, '--cfg-options', 'train_cfg.max_iters=1000000')
    for line in process.stdout:
        if 'Saving checkpoint at 2 iterations' in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert 'Traceback' not in errors
    assert '--resume' in errors.splitlines()[-1]
