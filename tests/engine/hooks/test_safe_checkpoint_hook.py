# SPDX-License-Identifier: Apache-2.0
"""An old checkpoint is removed only when the new one is there, and no other run's."""

import shutil
import uuid
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from se_mm.engine.runner.cpu import CPURunner
from se_mm.smoothing.options import OptionError


def build(cfg, **options):
    cfg.launcher = 'none'
    # Runs of one name share what they log, and the default name is the time in seconds.
    cfg.experiment_name = uuid.uuid4().hex
    cfg.default_hooks.checkpoint.update(options)
    return CPURunner.from_cfg(cfg)


class BestIsForgotten(Hook):
    def before_train(self, runner):
        runner.message_hub.update_info('best_score', 1e9)


def checkpoints(folder):
    return sorted(path.name for path in Path(folder).glob('*.pth'))


def test_disk_that_is_full_at_the_second_checkpoint_leaves_the_first(
    classifier_cfg, tmp_path, monkeypatch
):
    runner = build(classifier_cfg(tmp_path), max_keep_ckpts=1)
    save = type(runner).save_checkpoint

    def save_once(self, *args, **kwargs):
        if checkpoints(tmp_path):
            raise OptionError('checkpoint cannot be written: No space left on device')
        save(self, *args, **kwargs)

    monkeypatch.setattr(type(runner), 'save_checkpoint', save_once)
    with pytest.raises(OptionError, match='No space left'):
        runner.train()
    assert checkpoints(tmp_path) == ['iter_3.pth']
    monkeypatch.undo()
    resumed = build(classifier_cfg(tmp_path, resume=True), max_keep_ckpts=1)
    resumed.train()
    assert checkpoints(tmp_path) == ['iter_6.pth']


def test_best_checkpoint_of_the_run_that_was_copied_stays(pair_cfg, tmp_path):
    options = dict(save_best='teacher/accuracy/top1', rule='less')
    original, copied = tmp_path / 'original', tmp_path / 'copied'
    hooks = [dict(type='SETMAHook')]
    build(pair_cfg(original, hooks, max_iters=3), **options).train()
    best = [name for name in checkpoints(original) if name.startswith('best')]
    assert len(best) == 1
    shutil.copytree(original, copied)
    cfg = pair_cfg(copied, hooks, max_iters=6, resume=True)
    runner = build(cfg, **options)
    # Whatever the next metric is, it is the best.
    runner.register_hook(BestIsForgotten())
    runner.train()
    assert str(copied) in runner.message_hub.get_info('best_ckpt')
    assert [name for name in checkpoints(original) if name.startswith('best')] == best


def test_file_name_that_leads_out_of_the_work_dir_is_refused(classifier_cfg, tmp_path):
    for name in ('../{}.pth', '/tmp/{}.pth', 'sub/{}.pth'):
        runner = build(classifier_cfg(tmp_path / 'run'), filename_tmpl=name)
        with pytest.raises(
            OptionError, match=r'checkpoint.filename_tmpl must be a file name without'
        ):
            runner.train()
    assert [path.name for path in tmp_path.iterdir()] == ['run']


@pytest.mark.parametrize('key, value', [('keep_ckpt_ids', ['../../precious']), ('best_ckpt', None)])
def test_checkpoint_cannot_have_files_elsewhere_removed(pair_cfg, tmp_path, key, value):
    precious = tmp_path / 'iter_' / 'precious.pth'
    precious.parent.mkdir()
    precious.touch()
    options = dict(save_best='teacher/accuracy/top1', rule='greater', max_keep_ckpts=1)
    options['filename_tmpl'] = 'iter_{}.pth'
    hooks = [dict(type='SETMAHook')]
    build(pair_cfg(tmp_path / 'run', hooks, max_iters=3), **options).train()
    path = tmp_path / 'run' / 'iter_3.pth'
    checkpoint = torch.load(path)
    checkpoint['message_hub']['runtime_info'][key] = value or str(precious)
    checkpoint['message_hub']['runtime_info']['best_score'] = -1.0
    torch.save(checkpoint, path)
    runner = build(pair_cfg(tmp_path / 'run', hooks, max_iters=6, resume=True), **options)
    if key == 'keep_ckpt_ids':
        with pytest.raises(OptionError, match='keep_ckpt_ids of the checkpoint must be integers'):
            runner.train()
    else:
        runner.train()
        assert runner.message_hub.get_info('best_ckpt') != str(precious)
    assert precious.exists()
