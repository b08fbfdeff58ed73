# SPDX-License-Identifier: Apache-2.0
"""The shell scripts: one line for an error of several ranks, and what Slurm is asked for."""

import os
import signal

import pytest
import torch

import se_mm  # noqa: F401  (allows MMEngine's log classes in a checkpoint)


def test_error_of_two_ranks_is_one_line(tools, port):
    options = ['--cfg-options', 'custom_hooks.0.granularity=tensr']
    said = tools.fail('dist_train.sh', tools.config, 2, *options, PORT=port)
    assert "Did you mean 'tensor'?" in said


def test_ctrl_c_ends_two_ranks_and_says_how_to_go_on(tools, port):
    process = tools.start(
        'dist_train.sh',
        tools.config,
        2,
        '--cfg-options',
        'train_cfg.max_iters=1000000',
        PORT=port,
    )
    for line in process.stdout:
        if 'Saving checkpoint at 2 iterations' in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert 'Traceback' not in errors
    assert errors.count('--resume') == 1


@pytest.mark.parametrize(
    'script, usage',
    [
        ('dist_train.sh', 'CONFIG GPUS'),
        ('dist_test.sh', 'CONFIG CHECKPOINT GPUS'),
        ('slurm_train.sh', 'PARTITION JOB_NAME CONFIG'),
    ],
)
def test_missing_argument_is_answered_by_the_usage(tools, script, usage):
    status, _, errors = tools.run(script)
    assert status == 2
    assert usage in errors


def test_slurm_is_asked_for_what_the_environment_says(tools):
    srun = tools.folder / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    asked = tools.succeed(
        'slurm_train.sh',
        'gpu',
        'byol',
        tools.config,
        '--resume',
        GPUS='4',
        GPUS_PER_NODE='2',
        SRUN_ARGS='--time 60 --quiet',
        PATH=f'{tools.folder}:{os.environ["PATH"]}',
    ).splitlines()
    assert {'--ntasks=4', '--ntasks-per-node=2', '--gres=gpu:2', '--cpus-per-task=5'} <= set(asked)
    assert asked[:2] == ['-p', 'gpu']
    assert asked[asked.index('--time') :][:3] == ['--time', '60', '--quiet']
    assert asked[-4:] == [tools.config, '--launcher', 'slurm', '--resume']


def test_two_ranks_try_the_validation_together_and_train_as_without(tools, port):
    arguments = ['dist_train.sh', tools.config, 2]
    wrong = ['--cfg-options', 'default_hooks.checkpoint.save_best=acuracy/top1']
    assert "Did you mean 'accuracy/top1'?" in tools.fail(*arguments, *wrong, PORT=port)
    states = []
    for name, options in (('tried', []), ('untried', ['--no-check'])):
        output = tools.succeed(*arguments, '--work-dir', name, *options, PORT=port)
        assert ('trial validation' in output) == (name == 'tried')
        path = tools.folder / name / 'iter_4.pth'
        states.append(torch.load(path, map_location='cpu', weights_only=True)['state_dict'])
    tried, untried = states
    assert list(tried) == list(untried)
    assert all(torch.equal(tried[name], untried[name]) for name in tried)
