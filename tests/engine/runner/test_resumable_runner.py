# SPDX-License-Identifier: Apache-2.0
"""A resumed run ends as the uninterrupted one, loads with MMEngine's tolerance, and is alone."""

import copy
import os
import uuid

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.fileio.backends import backends, prefix_to_backends
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.utils.data import Dataset, Subset

from se_mm.engine.runner import resumable_runner, resume_hooks
from se_mm.engine.runner.cpu import CPURunner
from se_mm.smoothing.options import OptionError


class Draws(Hook):
    """Keeps what the model of each iteration would draw."""

    def __init__(self):
        self.drawn = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.drawn[runner.iter] = float(torch.rand(())), float(np.random.rand())


def built(cfg, **options):
    cfg.launcher = 'none'
    cfg.experiment_name = uuid.uuid4().hex
    cfg.update(options)
    runner = CPURunner.from_cfg(cfg)
    runner.warned = []
    runner.logger.warning = lambda message, *_: runner.warned.append(str(message))
    return runner


def trained(cfg, **options):
    runner = built(cfg, **options)
    draws = Draws()
    runner.register_hook(draws)
    runner.train()
    return runner, draws.drawn


def assert_same_weights(left, right):
    left, right = left.model.state_dict(), right.model.state_dict()
    assert list(left) == list(right)
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize('loop', ['iterations', 'epochs'])
def test_run_that_stops_in_the_middle_goes_on_with_the_same_draws(byol_cfg, tmp_path, loop):
    hooks = [dict(type='SETMAHook', keep_prob=0.5)]
    changes = {}
    if loop == 'epochs':  # Of 6 iterations; the checkpoint is in the middle of the first.
        changes = dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1))
    whole, drawn = trained(byol_cfg(tmp_path / 'whole', hooks, **dict(changes)))
    path = str(tmp_path / 'whole/iter_3.pth')
    cfg = byol_cfg(tmp_path / 'resumed', hooks, **dict(changes))
    resumed, again = trained(cfg, resume=True, load_from=path)
    assert again == {step: drawn[step] for step in (3, 4, 5)}
    assert_same_weights(whole, resumed)


def test_seed_that_no_config_names_comes_out_of_the_checkpoint(byol_cfg, tmp_path):
    cfg = byol_cfg(tmp_path / 'whole')
    cfg.randomness = dict(seed=None)
    whole, _ = trained(cfg)
    cfg = byol_cfg(tmp_path / 'resumed')
    cfg.randomness = dict(seed=None)
    resumed, _ = trained(cfg, resume=True, load_from=str(tmp_path / 'whole/iter_3.pth'))
    assert resumed.seed == whole.seed
    assert_same_weights(whole, resumed)


def test_gradients_between_two_steps_of_the_optimizer_are_kept(byol_cfg, tmp_path):
    def cfg(name):
        cfg = byol_cfg(tmp_path / name, [dict(type='SETMAHook')])
        cfg.optim_wrapper.accumulative_counts = 2
        return cfg

    whole, _ = trained(cfg('whole'))
    path = tmp_path / 'whole/iter_3.pth'
    (rank,) = torch.load(path)['ranks']
    assert rank['gradients'] and not rank['buffers']
    assert 'ranks' not in torch.load(tmp_path / 'whole/iter_6.pth')
    resumed, _ = trained(cfg('resumed'), resume=True, load_from=str(path))
    assert_same_weights(whole, resumed)


def test_what_a_rank_has_for_itself_are_the_statistics_of_norms(byol_cfg, tmp_path, monkeypatch):
    runner, _ = trained(byol_cfg(tmp_path))
    names = {name for name, _ in resume_hooks.statistics(runner)}
    norms = {
        f'{path}.{name}'
        for path, module in runner.model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, _ in module.named_buffers()
    }
    assert names == norms
    runner.model.register_buffer('queue', torch.zeros(3))
    runner.model.synchronised = nn.SyncBatchNorm(3)
    assert {name for name, _ in resume_hooks.statistics(runner)} == norms
    assert resume_hooks.rank_state(runner) == {'gradients': {}, 'buffers': {}}
    monkeypatch.setattr(resume_hooks, 'is_main_process', lambda: False)
    assert set(resume_hooks.rank_state(runner)['buffers']) == norms


def test_a_rank_has_the_statistics_of_a_teacher_beside_the_model_too(byol_cfg, tmp_path):
    cfg = byol_cfg(tmp_path)
    cfg.custom_hooks = [dict(type='SETMAHook', kind='shadow', keep_prob=0.5, momentum=0.1)]
    runner, _ = trained(cfg)
    names = {name for name, _ in resume_hooks.statistics(runner)}
    own = {name for name in names if not name.startswith('teacher.')}
    assert own and names == own | {f'teacher.{name}' for name in own}


class WalksData(Hook):
    """Reads the training data in the middle of a run, as PreciseBNHook does."""

    def __init__(self):
        self.seen = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter % 2:
            batch = next(iter(runner.train_loop.dataloader))
            self.seen[runner.iter] = batch['data_samples'].tolist()


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_hook_that_reads_the_training_data_changes_nothing(byol_cfg, tmp_path, sampler):
    def cfg(name, **options):
        return byol_cfg(tmp_path / name, train_dataloader=dict(sampler=dict(type=sampler)))

    plain, _ = trained(cfg('plain'))
    runs = []
    for options in ({}, dict(resume=True, load_from=str(tmp_path / 'plain/iter_3.pth'))):
        runner = built(cfg('walks'), **options)
        runner.register_hook(WalksData())
        runner.train()
        assert_same_weights(plain, runner)
        runs.append(next(h.seen for h in runner.hooks if isinstance(h, WalksData)))
    assert runs[1] == {step: seen for step, seen in runs[0].items() if step >= 3}


def test_precise_bn_of_mmpretrain_resumes_exactly(classifier_cfg, tmp_path):
    hooks = [dict(type='PreciseBNHook', num_samples=16), dict(type='SETMAHook')]
    epochs = dict(type='EpochBasedTrainLoop', max_epochs=3)
    checkpoint = dict(checkpoint=dict(interval=1, by_epoch=True))
    options = dict(default_hooks=checkpoint, **{'train_dataloader.sampler.shuffle': True})

    def cfg(name):
        return classifier_cfg(tmp_path / name, hooks, train_cfg=epochs, **copy.deepcopy(options))

    whole, _ = trained(cfg('whole'))
    path = str(tmp_path / 'whole/epoch_1.pth')
    resumed, _ = trained(cfg('resumed'), resume=True, load_from=path)
    assert_same_weights(whole, resumed)


@DATASETS.register_module(force=True)
def SubsetOfDigits(**_):
    """``torch.utils.data.Subset``, which reads its batches by ``__getitems__``."""
    return Subset(DATASETS.build(dict(type='TwoViewsOfDigits')), range(4, 44))


def test_subset_of_torch_trains_and_resumes(byol_cfg, tmp_path):
    options = dict(train_dataloader=dict(dataset=dict(type='SubsetOfDigits')))
    whole, _ = trained(byol_cfg(tmp_path / 'whole', **copy.deepcopy(options)))
    assert type(whole.train_dataloader.dataset) is Subset
    path = str(tmp_path / 'whole/iter_3.pth')
    cfg = byol_cfg(tmp_path / 'resumed', **copy.deepcopy(options))
    resumed, _ = trained(cfg, resume=True, load_from=path)
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_patience_of_early_stopping_is_kept(classifier_cfg, tmp_path, by_epoch):
    hooks = [dict(type='EarlyStoppingHook', monitor='accuracy/top1', min_delta=101, patience=4)]
    if by_epoch:
        loop = dict(type='EpochBasedTrainLoop', max_epochs=9)
        path = 'epoch_2.pth'
    else:
        loop = dict(type='IterBasedTrainLoop', max_iters=9, val_interval=1)
        path = 'iter_2.pth'
    checkpoint = dict(checkpoint=dict(interval=1, by_epoch=by_epoch))

    def cfg(name):
        options = dict(train_cfg=loop, default_hooks=checkpoint)
        return classifier_cfg(tmp_path / name, hooks, **copy.deepcopy(options))

    def state(runner):
        (hook,) = (hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook))
        return runner.iter, hook.wait_count, hook.best_score

    whole, _ = trained(cfg('whole'))
    assert state(whole)[1] == 4
    resumed, _ = trained(cfg('resumed'), resume=True, load_from=str(tmp_path / 'whole' / path))
    assert state(resumed) == state(whole)


def test_checkpoint_of_another_model_is_refused(byol_cfg, classifier_cfg, tmp_path):
    trained(classifier_cfg(tmp_path / 'classifier'))
    path = str(tmp_path / 'classifier/iter_3.pth')
    with pytest.raises(OptionError, match='must have the parameters of BYOL') as error:
        trained(byol_cfg(tmp_path / 'byol'), resume=True, load_from=path)
    assert '\n' not in str(error.value)


def changed(path, change):
    """Change a checkpoint."""
    checkpoint = torch.load(path)
    change(checkpoint)
    torch.save(checkpoint, path)


def test_config_in_a_checkpoint_is_not_run(byol_cfg, tmp_path):
    trained(byol_cfg(tmp_path / 'whole'))
    path, mark = tmp_path / 'whole/iter_3.pth', tmp_path / 'was_run'
    changed(path, lambda c: c['meta'].update(config=f'open({str(mark)!r}, "w")\n'))
    trained(byol_cfg(tmp_path / 'resumed'), resume=True, load_from=str(path))
    assert not mark.exists()


@DATASETS.register_module(force=True)
class Numbers(Dataset):
    metainfo = {}

    def __len__(self):
        return 32

    def __getitem__(self, index):
        x = torch.randn(6, generator=torch.Generator().manual_seed(index))
        return x, x.sum(0, keepdim=True)


def drop_frozen(module, state, prefix, metadata):
    for key in [key for key in state if 'frozen' in key]:
        del state[key]


@MODELS.register_module(force=True)
class Net(BaseModel):
    """A backbone and a head, with a buffer of an odd kind or a frozen part that is not saved."""

    def __init__(self, classes=1, what=''):
        super().__init__()
        self.what = what
        self.backbone, self.head = nn.Linear(6, 6), nn.Linear(6, classes)
        buffers = dict(
            sparse=lambda: torch.eye(6).to_sparse(),
            quantised=lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            nan=lambda: torch.tensor(float('nan')),
            late=lambda: None,
        )
        if what in buffers:
            self.register_buffer('odd', buffers[what]())
        if what == 'unsaved':
            self.frozen = nn.Linear(6, 6).requires_grad_(False)
            nn.init.eye_(self.frozen.weight)
            self._register_state_dict_hook(drop_frozen)

    def forward(self, x, y=None, mode='tensor'):
        if self.what == 'late':
            self.odd = x.detach().mean(0)
        out = self.head(self.backbone(x))
        return {'loss': F.mse_loss(out.mean(1, keepdim=True), y)} if mode == 'loss' else out


def net(folder, classes=1, what='', **options):
    return Config(
        dict(
            model=dict(type='Net', classes=classes, what=what),
            work_dir=str(folder),
            train_dataloader=dict(
                batch_size=4,
                dataset=dict(type='Numbers'),
                sampler=dict(type='InfiniteSampler'),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=False, max_iters=6),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False)),
            randomness=dict(seed=0),
            log_level='ERROR',
            **options,
        )
    )


@pytest.mark.parametrize('hook', [None, 'EMAHook'])
@pytest.mark.parametrize('what', ['', 'sparse', 'quantised', 'nan', 'late', 'unsaved'])
def test_odd_buffers_and_a_customised_state_dict_resume(tmp_path, what, hook):
    if (what, hook) == ('quantised', 'EMAHook'):
        pytest.skip('EMAHook itself cannot swap it')
    hooks = [dict(type=hook, momentum=0.1, strict_load=False)] if hook else []

    def cfg(name):
        return net(tmp_path / name, what=what, custom_hooks=hooks)

    whole, _ = trained(cfg('whole'))
    path = str(tmp_path / 'whole/iter_3.pth')
    resumed, _ = trained(cfg('resumed'), resume=True, load_from=path)
    assert torch.equal(resumed.model.head.weight, whole.model.head.weight)


@pytest.mark.parametrize('hook', [None, 'EMAHook'])
@pytest.mark.parametrize('form', ['checkpoint', 'bare', 'module.'])
def test_weights_of_other_classes_load_with_a_warning(tmp_path, form, hook):
    state = Net(80).state_dict()
    state = {('module.' if form == 'module.' else '') + name: v for name, v in state.items()}
    # MMEngine's EMAHook needs a `state_dict`.
    torch.save(state if form == 'bare' and not hook else dict(state_dict=state), tmp_path / 'w.pth')
    hooks = [dict(type=hook)] if hook else []
    cfg = net(tmp_path / 'run', 3, load_from=str(tmp_path / 'w.pth'), custom_hooks=hooks)
    cfg.optim_wrapper.optimizer.lr = 0.0
    runner, _ = trained(cfg)
    weight = next(value for name, value in state.items() if 'backbone.weight' in name)
    assert torch.equal(runner.model.backbone.weight, weight)
    assert runner.model.head.out_features == 3


def test_resume_of_other_classes_is_one_line_with_both_shapes(tmp_path):
    trained(net(tmp_path / 'whole', 80))
    path = str(tmp_path / 'whole/iter_3.pth')
    said = r"parameters of Net, got 'head.weight' with shape \(80, 6\) instead of \(3, 6\)"
    with pytest.raises(OptionError, match=said):
        trained(net(tmp_path / 'run', 3), resume=True, load_from=path)


def test_stripped_checkpoint_resumes_with_a_note(tmp_path):
    trained(net(tmp_path / 'whole'))
    path = tmp_path / 'whole/iter_3.pth'
    changed(path, lambda c: [c.pop('optimizer'), c.pop('message_hub')])
    runner, drawn = trained(net(tmp_path / 'run'), resume=True, load_from=str(path))
    assert set(drawn) == {3, 4, 5}
    assert any('has no optimizer, message_hub: new ones' in said for said in runner.warned)


def test_optimizer_of_other_parameters_is_one_line(tmp_path):
    trained(net(tmp_path / 'whole'))
    path = tmp_path / 'whole/iter_3.pth'
    changed(path, lambda c: c['optimizer']['param_groups'][0]['params'].pop())
    with pytest.raises(OptionError, match='or its optimizer has other parameters'):
        trained(net(tmp_path / 'run'), resume=True, load_from=str(path))


def test_weights_alone_cannot_be_resumed_and_the_line_says_what_can_be_done(tmp_path):
    torch.save(dict(state_dict=Net().state_dict()), tmp_path / 'w.pth')
    with pytest.raises(OptionError, match='use load_from to start from its weights'):
        trained(net(tmp_path / 'run'), resume=True, load_from=str(tmp_path / 'w.pth'))


def test_automatic_resume_of_an_empty_folder_starts_from_load_from(tmp_path):
    torch.save(dict(state_dict=Net().state_dict()), tmp_path / 'w.pth')
    options = dict(resume='auto', load_from=str(tmp_path / 'w.pth'))
    cfg = net(tmp_path / 'run')
    cfg.optim_wrapper.optimizer.lr = 0.0
    runner, _ = trained(cfg, **options)
    expected = torch.load(tmp_path / 'w.pth')['state_dict']['head.weight']
    assert torch.equal(runner.model.head.weight, expected)
    assert any('the run starts from' in said for said in runner.warned)
    cfg = net(tmp_path / 'run')
    cfg.train_cfg.max_iters = 8
    _, drawn = trained(cfg, **options)
    assert set(drawn) == {6, 7}


def test_checkpoint_is_read_once_and_rank_0_chooses_it(tmp_path, monkeypatch):
    trained(net(tmp_path / 'run'))
    read = []
    original = torch.load
    monkeypatch.setattr(
        torch, 'load', lambda f, *a, **k: (read.append(str(f)), original(f, *a, **k))[1]
    )
    cfg = net(tmp_path / 'run')
    cfg.train_cfg.max_iters = 7
    trained(cfg, resume=True)
    assert read == [str(tmp_path / 'run/iter_6.pth')]
    # Another rank looks at no folder and takes what rank 0 says.
    other = built(cfg, resume=True)
    chosen = str(tmp_path / 'run/iter_3.pth')
    monkeypatch.setattr(resumable_runner, 'is_main_process', lambda: False)
    monkeypatch.setattr(
        resumable_runner, 'broadcast_object_list', lambda told: told.__setitem__(0, chosen)
    )
    assert other._newest_checkpoint() == chosen
    monkeypatch.setattr(
        resumable_runner, 'broadcast_object_list', lambda told: told.__setitem__(1, 'none is whole')
    )
    with pytest.raises(OptionError, match='none is whole'):
        other._newest_checkpoint()


def test_full_disk_keeps_its_error_and_the_old_file(tmp_path, monkeypatch):
    runner, _ = trained(net(tmp_path / 'run'))
    before = (tmp_path / 'run/iter_6.pth').read_bytes()

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        runner.save_checkpoint(str(tmp_path / 'run'), 'iter_6.pth')
    assert (tmp_path / 'run/iter_6.pth').read_bytes() == before
    names = {path.name for path in (tmp_path / 'run').iterdir() if path.is_file()}
    assert {name for name in names if 'iter' in name} == {'iter_3.pth', 'iter_6.pth'}


def test_a_run_changes_nothing_for_the_process(tmp_path):
    def state():
        allowed = getattr(torch.serialization, 'get_safe_globals', list)()
        environment = {key: value for key, value in os.environ.items() if 'TORCH' in key}
        return (
            dict(backends),
            dict(prefix_to_backends),
            dict(CheckpointLoader._schemes),
            set(allowed),
            environment,
            Numbers.__mro__,
        )

    before = state()
    trained(net(tmp_path / 'run'))
    runner, _ = trained(net(tmp_path / 'run'), resume=True)
    assert type(runner.train_dataloader.dataset) is Numbers
    assert state() == before


class Fails(Hook):
    def after_load_checkpoint(self, runner, checkpoint):
        raise ValueError('of the user')

    def before_save_checkpoint(self, runner, checkpoint):
        raise FileNotFoundError('of the user')


def test_error_of_a_users_hook_stays_what_it_is(tmp_path):
    runner = built(net(tmp_path / 'run'))
    runner.register_hook(Fails())
    with pytest.raises(FileNotFoundError, match='of the user'):
        runner.train()
    trained(net(tmp_path / 'run'))
    runner = built(net(tmp_path / 'run'), resume=True)
    runner.register_hook(Fails())
    with pytest.raises(ValueError, match='of the user') as error:
        runner.train()
    assert not isinstance(error.value, OptionError)
