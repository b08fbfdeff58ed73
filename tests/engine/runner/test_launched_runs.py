# SPDX-License-Identifier: Apache-2.0
"""Runs started as a user starts them, by tools/train.py and tools/dist_train.sh."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.launched import free_port, start, write_digits

pytest.importorskip('PIL.Image')
pytest.importorskip('mmpretrain')
TOOLS = Path(__file__).parents[3] / 'tools'

CONFIG = """
custom_imports = dict(imports=['se_mm', 'dump_teacher'], allow_failed_imports=False)
default_scope = 'mmpretrain'
view = [
    dict(type='RandomResizedCrop', scale=8, crop_ratio_range=(0.5, 1.0)),
    dict(type='RandomFlip', prob=0.5),
]
train_dataloader = dict(
    batch_size=8, num_workers=1, persistent_workers=False, drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root=FOLDER, with_label=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='MultiView', num_views=2, transforms=[view]),
            dict(type='PackInputs'),
        ]))
neck = dict(
    type='NonLinearNeck', hid_channels=16, out_channels=8, num_layers=2, with_last_bn=False,
    norm_cfg=dict(type='SyncBN'))
model = dict(
    type='BYOL', base_momentum=0.05,
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True),
    backbone=dict(
        type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8, num_stages=2,
        strides=(1, 2), dilations=(1, 1), out_indices=(1,), norm_cfg=dict(type='SyncBN')),
    neck=dict(in_channels=16, with_avg_pool=True, **neck),
    head=dict(
        type='LatentPredictHead', loss=dict(type='CosineSimilarityLoss'),
        predictor=dict(in_channels=8, with_avg_pool=False, **neck)))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=4, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=1))
custom_hooks = [
    dict(type='SETMAHook', keep_prob=0.5, granularity='channel'), dict(type='DumpTeacher')]
randomness = dict(seed=0)
"""

DUMP_TEACHER = """
import os, time
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class DumpTeacher(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        time.sleep(float(os.environ.get('SLOW', 0)))

    def after_train(self, runner):
        (hook,) = (h for h in runner.hooks if hasattr(h, 'teacher'))
        torch.save({n: p.teacher for n, p in hook.updater.smoother.named().items()},
                   f'{runner.work_dir}/rank{get_rank()}.pth')
"""


@pytest.fixture
def project(tmp_path):
    """A folder with images, a config and a hook of the user's own."""
    write_digits(tmp_path / 'images', 32)
    config = CONFIG.replace('FOLDER', repr(str(tmp_path / 'images')))
    (tmp_path / 'config.py').write_text(config)
    (tmp_path / 'dump_teacher.py').write_text(DUMP_TEACHER)
    return tmp_path


def run(project, *command, **environment):
    process = start(project, *command, **environment)
    assert process.wait(timeout=900) == 0, '\n'.join(
        log.read_text()[-3000:] for log in sorted(project.glob('*.log'))
    )


def train(*options):
    return (sys.executable, TOOLS / 'train.py', 'config.py', *options)


def dist_train(ranks, *options):
    return ('bash', TOOLS / 'dist_train.sh', 'config.py', ranks, *options)


def saved(path):
    return torch.load(path, map_location='cpu')


def assert_same(left, right):
    assert list(left) == list(right)
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_run_killed_after_a_checkpoint_and_resumed_ends_with_the_very_tensors(project):
    run(project, *train('--work-dir', 'whole'))
    killed = start(project, *train('--work-dir', 'killed'), SLOW='0.5')
    deadline = time.monotonic() + 200
    while not (project / 'killed/last_checkpoint').exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)  # Into the next epoch.
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (project / 'killed/epoch_4.pth').exists()
    run(project, *train('--work-dir', 'killed', '--resume'))
    whole, resumed = saved(project / 'whole/epoch_4.pth'), saved(project / 'killed/epoch_4.pth')
    assert_same(whole['state_dict'], resumed['state_dict'])
    momentum = [
        [state['momentum_buffer'] for state in checkpoint['optimizer']['state'].values()]
        for checkpoint in (whole, resumed)
    ]
    assert all(torch.equal(left, right) for left, right in zip(*momentum))
    assert int(resumed['state_dict']['target_net.steps']) == 16


@pytest.mark.parametrize('diff_rank_picks', [False, True])
def test_promise_1_two_ranks_hold_the_same_teacher_unless_asked_not_to(project, diff_rank_picks):
    options = ('--cfg-options', f'custom_hooks.0.diff_rank_picks={diff_rank_picks}')
    run(project, *dist_train(2, '--work-dir', 'two', *options), PORT=free_port())
    first, second = saved(project / 'two/rank0.pth'), saved(project / 'two/rank1.pth')
    same = all(torch.equal(first[name], second[name]) for name in first)
    assert same is not diff_rank_picks
    state = saved(project / 'two/epoch_4.pth')['state_dict']
    assert int(state['target_net.steps']) == 8  # 32 images, 2 ranks of 8, 4 epochs.


def test_two_nodes_on_one_machine_train_together(project):
    port = free_port()
    nodes = [
        start(
            project,
            *dist_train(1, '--work-dir', 'nodes'),
            NNODES='2',
            NODE_RANK=str(rank),
            MASTER_ADDR='127.0.0.1',
            PORT=port,
        )
        for rank in range(2)
    ]
    assert [node.wait(timeout=900) for node in nodes] == [0, 0]
    assert_same(saved(project / 'nodes/rank0.pth'), saved(project / 'nodes/rank1.pth'))
    assert int(saved(project / 'nodes/epoch_4.pth')['state_dict']['target_net.steps']) == 8
