# SPDX-License-Identifier: Apache-2.0
"""Jobs of two ranks of which one dies, or holds another teacher than it should."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from se_mm.engine.launch import resume_option
from se_mm.smoothing.options import OptionError
from tests.launched import free_port, write_digits

pytest.importorskip('PIL.Image')
pytest.importorskip('mmpretrain')
TOOLS = Path(__file__).parents[2] / 'tools'

CONFIG = """
custom_imports = dict(imports=['se_mm', 'fault_hook'], allow_failed_imports=False)
default_scope = 'mmpretrain'
train_dataloader = dict(
    batch_size=8, num_workers=0, drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root=FOLDER, with_label=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='MultiView', num_views=2, transforms=[[dict(type='RandomFlip', prob=0.5)]]),
            dict(type='PackInputs'),
        ]))
neck = dict(
    type='NonLinearNeck', hid_channels=16, out_channels=8, num_layers=2, with_last_bn=False)
model = dict(
    type='BYOL', base_momentum=0.05,
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True),
    backbone=dict(
        type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8, num_stages=2,
        strides=(1, 2), dilations=(1, 1), out_indices=(1,)),
    neck=dict(in_channels=16, with_avg_pool=True, **neck),
    head=dict(
        type='LatentPredictHead', loss=dict(type='CosineSimilarityLoss'),
        predictor=dict(in_channels=8, with_avg_pool=False, **neck)))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
custom_hooks = [
    dict(type='SETMAHook', keep_prob=0.5, check_teachers=1, check_finite=1),
    dict(type='FaultHook')]
randomness = dict(seed=0)
"""

FAULT_HOOK = """
import atexit
import os
import signal
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class FaultHook(Hook):
    '''Does to one rank, at one iteration, what the environment asks for.'''

    def before_run(self, runner):
        atexit.register(self.note_end, f'{runner.work_dir}/ends.txt')
        # A line for each start of a rank.
        with open(f'{runner.work_dir}/starts.txt', 'a') as starts:
            starts.write(f'{get_rank()}\\n')

    def note_end(self, path):
        with open(path, 'a') as ends:
            ends.write(f'{torch.distributed.is_initialized()}\\n')

    def before_train(self, runner):
        self.began = runner.iter

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        fault, rank, at = os.environ.get('FAULT', 'none 0 0').split()
        if get_rank() != int(rank) or runner.iter != int(at):
            return
        (hook,) = (h for h in runner.hooks if hasattr(h, 'teacher'))
        if fault == 'kill' and self.began == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        pairs = list(hook.updater.smoother.named().values())
        if fault == 'alter':  # An element that the watch for other updates does not compare.
            max(pairs, key=lambda pair: pair.teacher.numel()).teacher.view(-1)[-1] *= -1
        if fault == 'nan':
            pairs[4].student.data.view(-1)[3] = float('nan')

    def after_train(self, runner):
        (hook,) = (h for h in runner.hooks if hasattr(h, 'teacher'))
        torch.save(
            {
                'began': self.began,
                'teacher': {n: p.teacher for n, p in hook.updater.smoother.named().items()},
            },
            f'{runner.work_dir}/rank{get_rank()}.pth')
"""


@pytest.fixture
def project(tmp_path):
    """A folder with images, a config and a hook that damages ranks."""
    write_digits(tmp_path / 'images', 48)
    (tmp_path / 'config.py').write_text(CONFIG.replace('FOLDER', repr(str(tmp_path / 'images'))))
    (tmp_path / 'fault_hook.py').write_text(FAULT_HOOK)
    return tmp_path


def train(project, work_dir, *options, **environment):
    """A job of two ranks, and what it said."""
    process = subprocess.Popen(
        ['bash', str(TOOLS / 'dist_train.sh'), 'config.py', '2', '--work-dir', work_dir, *options],
        cwd=project,
        env={
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'PYTHON': sys.executable,
            'PYTHONPATH': f'{project}:{os.environ.get("PYTHONPATH", "")}',
            'PORT': free_port(),
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return process, process.communicate(timeout=900)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def starts(project, work_dir):
    return sorted((project / work_dir / 'starts.txt').read_text().split())


def load(path):
    return torch.load(path, map_location='cpu')


def same(left, right):
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


def test_a_job_of_which_one_rank_is_killed_ends_as_if_it_had_not_been(project):
    job, said = train(project, 'whole')
    assert job.returncode == 0, said[-3000:]
    # A rank that ends with its group still there may abort, with all its work done.
    assert (project / 'whole/ends.txt').read_text().split() == ['False', 'False']
    # In the middle of the third of four epochs of three iterations.
    job, said = train(project, 'killed', MAX_RESTARTS='3', FAULT='kill 1 7')
    assert job.returncode == 0, said[-3000:]
    assert starts(project, 'killed') == ['0', '0', '1', '1'], said[-9000:]
    ranks = [load(project / f'killed/rank{rank}.pth') for rank in (0, 1)]
    assert [rank['began'] for rank in ranks] == [6, 6]
    whole = load(project / 'whole/rank0.pth')
    assert same(ranks[0]['teacher'], ranks[1]['teacher'])
    assert same(ranks[0]['teacher'], whole['teacher'])
    states = [load(project / run / 'epoch_4.pth')['state_dict'] for run in ('whole', 'killed')]
    assert same(*states)
    # What is there now would be another run's for one that is started afresh.
    job, said = train(project, 'killed', MAX_RESTARTS='1')
    assert job.returncode == 2
    (line,) = (line for line in said.splitlines() if line.startswith('error: '))
    assert "work_dir 'killed' must have no checkpoints of another run" in line
    assert len(starts(project, 'killed')) == 4


def test_a_rank_that_dies_before_the_first_checkpoint_starts_from_scratch(project):
    job, said = train(project, 'early', MAX_RESTARTS='1', FAULT='kill 0 1')
    # It is killed in its second start as well, which is its last.
    assert job.returncode == 1, said[-3000:]
    assert starts(project, 'early') == ['0', '0', '1', '1']


def test_without_restarts_a_killed_rank_ends_the_job(project):
    job, said = train(project, 'once', FAULT='kill 1 4')
    assert job.returncode == 1, said[-3000:]
    assert starts(project, 'once') == ['0', '1']


@pytest.mark.parametrize('restarts', ['0', '2'])
def test_a_teacher_that_differs_on_a_rank_stops_the_job_by_name(project, restarts):
    job, said = train(project, 'altered', MAX_RESTARTS=restarts, FAULT='alter 1 4')
    assert job.returncode == 3, said[-3000:]
    (line,) = (line for line in said.splitlines() if line.startswith('error: '))
    assert "at update 5 tensor 'backbone." in line
    assert 'of rank 1 differs from that of rank 0' in line
    assert 'Traceback' not in said
    # What was reported in one line is not tried again.
    assert starts(project, 'altered') == ['0', '1']


def test_a_student_that_is_not_finite_on_one_rank_stops_all_with_one_line(project):
    job, said = train(project, 'nan', FAULT='nan 1 4')
    assert job.returncode == 3, said[-3000:]
    (line,) = (line for line in said.splitlines() if line.startswith('error: '))
    assert line.startswith(
        "error: the student must be finite, but at update 4 its tensor 'backbone."
    )
    assert 'Traceback' not in said


@pytest.mark.parametrize(
    'count, newest, resume, expected',
    [
        (0, None, None, None),
        (0, None, 'auto', 'auto'),
        (0, 'old.pth', 'auto', 'auto'),
        (0, 'old.pth', 'old.pth', 'old.pth'),
        (0, 'old.pth', None, 'refused'),
        (0, 'old.pth', 'another.pth', 'refused'),
        (1, None, None, None),
        (1, None, 'another.pth', 'another.pth'),
        (1, 'new.pth', None, 'auto'),
        (2, 'new.pth', 'another.pth', 'auto'),
    ],
)
def test_what_ranks_that_may_be_started_again_go_on_from(
    tmp_path, monkeypatch, count, newest, resume, expected
):
    monkeypatch.setenv('SE_MM_RESTART', str(count))
    monkeypatch.setenv('SE_MM_MAX_RESTARTS', '3')
    monkeypatch.chdir(tmp_path)
    if newest is not None:
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / newest))
    cfg = Config(dict(work_dir=str(tmp_path)))
    if expected == 'refused':
        with pytest.raises(OptionError, match='MAX_RESTARTS') as error:
            resume_option(cfg, resume)
        assert '\n' not in str(error.value)
    else:
        assert resume_option(cfg, resume) == expected


def test_a_start_afresh_beside_earlier_checkpoints_is_warned_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SE_MM_MAX_RESTARTS', '0')
    (tmp_path / 'last_checkpoint').write_text('epoch_4.pth')
    cfg = Config(dict(work_dir=str(tmp_path)))
    assert resume_option(cfg, None) is None
    said = capsys.readouterr().err
    assert said.startswith('warning: ') and len(said.splitlines()) == 1
    assert resume_option(Config(dict(work_dir=str(tmp_path), resume=True)), None) is None
    monkeypatch.setenv('RANK', '1')
    assert resume_option(cfg, None) is None
    assert capsys.readouterr().err == ''
