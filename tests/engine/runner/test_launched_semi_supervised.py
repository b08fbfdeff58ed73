# SPDX-License-Identifier: Apache-2.0
"""FixMatch runs started as a user starts them: killed, on two ranks, accumulated, in bfloat16."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.launched import free_port, start

pytest.importorskip('mmpretrain')
ROOT = Path(__file__).parents[3]
CONFIG = """
_base_ = 'BASE'
custom_imports = dict(imports=['se_mm', 'slow'], allow_failed_imports=False)
train_dataloader = dict(batch_size=4, batch_sampler=dict(mu=2))
train_cfg = dict(max_iters=8, val_interval=8)
param_scheduler = [dict(_base_.param_scheduler[0], T_max=8 * 16 / 7, end=8)]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=3), pseudo_labels=dict(interval=2))
custom_hooks = [
    dict(type='SETMAHook', keep_prob=0.5, momentum=0.05, granularity='channel'), dict(type='Slow')]
"""
SLOW = """
import os, time
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Slow(Hook):
    def before_train(self, runner):
        self.labels = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.labels.append([
            data_batch['data_samples']['labels'],
            *(view.double().sum((1, 2, 3)) for view in data_batch['inputs']['views'])])
        time.sleep(float(os.environ.get('SLOW', 0)))

    def after_train(self, runner):
        teacher = {k: v for k, v in runner.model.state_dict().items() if 'teacher.' in k}
        torch.save([teacher, self.labels], f'{runner.work_dir}/rank{get_rank()}.pth')
"""


@pytest.fixture
def project(tmp_path):
    base = ROOT / 'configs/fixmatch/fixmatch_sts_conv4_1xb32_digits-2.py'
    (tmp_path / 'config.py').write_text(CONFIG.replace('BASE', str(base)))
    (tmp_path / 'slow.py').write_text(SLOW)
    return tmp_path


def train(project, *options, **environment):
    words = (sys.executable, ROOT / 'tools/train.py', 'config.py', *options)
    process = start(project, *words, **environment)
    assert process.wait(timeout=900) == 0, log_of(project)


def dist_train(project, *options):
    words = ('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2, *options)
    process = start(project, *words, PORT=free_port())
    assert process.wait(timeout=900) == 0, log_of(project)


def log_of(project):
    return '\n'.join(log.read_text()[-3000:] for log in sorted(project.glob('*.log')))


def saved(path):
    return torch.load(path, map_location='cpu')


def assert_same_run(left, right):
    left, right = saved(left), saved(right)
    assert list(left['state_dict']) == list(right['state_dict'])
    for name, value in left['state_dict'].items():
        assert torch.equal(value, right['state_dict'][name]), name
    for one, other in zip(
        left['optimizer']['state'].values(), right['optimizer']['state'].values()
    ):
        assert torch.equal(one['momentum_buffer'], other['momentum_buffer'])
    assert left['se_mm']['step'] == right['se_mm']['step']


def test_run_killed_in_mid_epoch_and_resumed_ends_with_the_very_tensors(project):
    train(project, '--work-dir', 'whole')
    killed = start(
        project,
        *(sys.executable, ROOT / 'tools/train.py', 'config.py', '--work-dir', 'killed'),
        SLOW='0.5',
    )
    deadline = time.monotonic() + 200
    while not (project / 'killed/last_checkpoint').exists():
        assert killed.poll() is None and time.monotonic() < deadline, log_of(project)
        time.sleep(0.1)
    time.sleep(0.7)  # Past the checkpoint.
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (project / 'killed/iter_8.pth').exists()
    train(project, '--work-dir', 'killed', '--resume')
    assert_same_run(project / 'whole/iter_8.pth', project / 'killed/iter_8.pth')


@pytest.mark.parametrize(
    'options',
    [['--cfg-options', 'optim_wrapper.accumulative_counts=3'], ['--amp', '--cfg-options']],
    ids=['accumulated', 'bfloat16'],
)
def test_exact_resume_when_accumulated_and_in_mixed_precision(project, options):
    # The sixth iteration ends an accumulation: mmengine's checkpoints hold no gradients.
    options = [*options, 'default_hooks.checkpoint.max_keep_ckpts=-1']
    train(project, '--work-dir', 'whole', *options)
    checkpoint = project / 'whole/iter_6.pth'
    train(project, '--work-dir', 'resumed', '--resume', checkpoint, *options)
    assert_same_run(project / 'whole/iter_8.pth', project / 'resumed/iter_8.pth')


def test_bfloat16_is_used_without_a_gpu(project):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    keep = ('--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=-1')
    train(project, '--work-dir', 'plain', *keep)
    train(project, '--work-dir', 'amp', '--amp', *keep)
    # Early: what is rounded apart grows from iteration to iteration.
    plain, amp = (saved(project / name / 'iter_3.pth')['state_dict'] for name in ('plain', 'amp'))
    weight = 'student.backbone.layers.0.0.weight'
    assert amp[weight].dtype == torch.float32
    assert not torch.equal(plain[weight], amp[weight])
    assert (plain[weight] - amp[weight]).norm() < 0.1 * plain[weight].norm()


def test_two_ranks_draw_other_images_and_hold_the_same_teacher(project):
    dist_train(project, '--work-dir', 'two')
    (first, labels), (second, others) = (saved(project / f'two/rank{r}.pth') for r in (0, 1))
    for name, value in first.items():
        if 'running' not in name:  # Batch norm's statistics are each rank's own on the CPU.
            assert torch.equal(value, second[name]), name
    for ours, theirs in zip(labels, others):
        assert not torch.equal(ours[1], theirs[1])
    assert 'mask_rate' in log_of(project)


def test_two_ranks_resume_exactly(project):
    keep = ('--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=-1')
    dist_train(project, '--work-dir', 'whole', *keep)
    dist_train(project, '--work-dir', 'resumed', '--resume', project / 'whole/iter_3.pth', *keep)
    (_, whole), (_, resumed) = (saved(project / f'{d}/rank1.pth') for d in ('whole', 'resumed'))
    for one, other in zip(whole[3:], resumed):
        assert all(torch.equal(left, right) for left, right in zip(one, other))
    left, right = (saved(project / f'{d}/iter_8.pth')['state_dict'] for d in ('whole', 'resumed'))
    for name, value in left.items():
        if 'running' not in name:
            torch.testing.assert_close(right[name], value, rtol=1e-4, atol=1e-5)
