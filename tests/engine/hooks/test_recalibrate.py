# SPDX-License-Identifier: Apache-2.0
"""``buffers='recalibrate'``: statistics of the teacher's own, and nothing else of a run changes."""

import random
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from se_mm.engine.runner.cpu import CPURunner
from se_mm.engine.trial import try_validation
from se_mm.rng import seed_all
from se_mm.smoothing import OptionError, SpatialEnsemble
from tests.launched import free_port, start
from tests.runs import digit_images
from tests.toys import VALIDATING, AtStartHook, Momentum, Plain, Sums, Toy, hook_of

COPY = dict(type='SETMAHook', keep_prob=0.5, momentum=0.1, buffers='copy')
OWN = dict(COPY, buffers='recalibrate', recalibrate_batches=4)
KINDS = ['classifier', 'pair']
# Labels that change wherever the teacher's statistics do.
SOFT = dict(threshold=1e-6, consistency='mse', target=dict(type='SoftTarget'))
MEAN, VAR = 'backbone.norm.running_mean', 'backbone.norm.running_var'


@HOOKS.register_module(force=True)
class WatchRunHook(Hook):
    """Keeps the generators and batches of each iteration, and what is evaluated."""

    priority = 'LOW'

    def __init__(self):
        self.seen, self.evaluated = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        states = random.getstate(), np.random.get_state()[1].tolist()
        inputs = data_batch['inputs']
        images = inputs['views'][0] if isinstance(inputs, dict) else torch.stack(inputs)
        self.seen.append((states, torch.get_rng_state().tolist(), images.tolist()))

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.evaluated.append({k: v.clone() for k, v in runner.model.state_dict().items()})

    before_test_iter = before_val_iter


def watch_of(runner):
    return hook_of(runner, 'WatchRunHook')


def saved(runner, name='iter_6.pth'):
    return torch.load(f'{runner.work_dir}/{name}')


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def recomputed(cfg, state):
    """The statistics on the first 4 batches of 8 digits, by PyTorch."""
    model = MODELS.build(cfg.model)
    model.load_state_dict(state)
    update_bn(digit_images()[:32].split(8), model)
    return model.state_dict()


def assert_recomputed(cfg, state):
    expected = recomputed(cfg, state)
    for name in (MEAN, VAR):
        torch.testing.assert_close(state[name], expected[name])


def test_statistics_are_those_of_the_teacher_on_training_batches(runs):
    runner = runs.classifier(OWN, dict(type='WatchRunHook'))
    checkpoint = saved(runner)
    assert_recomputed(runner.cfg, checkpoint['state_dict'])
    evaluated = watch_of(runner).evaluated[0]
    assert_same(
        {n: evaluated[n] for n in (MEAN, VAR)},
        {n: checkpoint['state_dict'][n] for n in (MEAN, VAR)},
    )
    # After the validation the model is the student again.
    student = {n[7:]: v for n, v in checkpoint['ema_state_dict'].items() if n.startswith('module.')}
    assert_same(student, runner.model.state_dict())
    assert not torch.equal(student[MEAN], checkpoint['state_dict'][MEAN])
    # A checkpoint in the middle of the training has the student's.
    middle = saved(runner, 'iter_3.pth')
    assert torch.equal(middle['state_dict'][MEAN], middle['ema_state_dict'][f'module.{MEAN}'])


def test_best_checkpoint_has_the_statistics_that_were_validated(runs):
    default_hooks = dict(
        checkpoint=dict(
            type='CheckpointHook', save_best='accuracy/top1', by_epoch=False, interval=9
        )
    )
    runner = runs.classifier(
        OWN,
        default_hooks=default_hooks,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=6, val_interval=6, val_begin=6),
    )
    name = runner.message_hub.get_info('best_ckpt').rpartition('/')[2]
    assert_recomputed(runner.cfg, saved(runner, name)['state_dict'])


@pytest.mark.parametrize(
    'kind, loader',
    [
        ('classifier', dict(sampler=dict(type='InfiniteSampler', shuffle=True))),
        ('classifier', dict(sampler=dict(shuffle=True))),
        (
            'classifier',
            dict(
                num_workers=1,
                persistent_workers=True,
                sampler=dict(type='InfiniteSampler', shuffle=True),
            ),
        ),
        ('pair', {}),
    ],
    ids=['endless', 'passes', 'workers', 'pair'],
)
def test_training_is_the_same_as_without(runs, kind, loader):
    without, own = (
        getattr(runs, kind)(
            hook,
            dict(type='WatchRunHook'),
            train_dataloader=loader,
            **(dict(model=dict(SOFT)) if kind == 'pair' else {}),
            train_cfg=dict(runs.cfg_of(kind)('').train_cfg, val_interval=2),
        )
        for hook in (COPY, OWN)
    )
    one, other = (watch_of(runner) for runner in (without, own))
    assert len(one.seen) == 6 and one.seen == other.seen
    assert runs.losses(without) == runs.losses(own)
    norm = MEAN if kind == 'classifier' else f'teacher.{MEAN}'
    for left, right in zip(one.evaluated, other.evaluated, strict=True):
        assert not torch.equal(left[norm], right[norm])
    states = without.model.state_dict(), own.model.state_dict()
    for name in (MEAN, VAR):  # At the end a teacher in the model has statistics of its own.
        for state in states if kind == 'pair' else ():
            state.pop(f'teacher.{name}')
    assert_same(*states)


@pytest.mark.parametrize('stopped', ['in the middle', 'at its end', 'accumulating'])
@pytest.mark.parametrize('kind', KINDS)
def test_exact_resume(runs, kind, stopped):
    def trained(name, iters=6, **options):
        cfg = runs.cfg_of(kind)(runs.folder / name, [OWN], max_iters=iters)
        if kind == 'pair':
            cfg.model.update(SOFT)
        # A validation between two steps of the optimizer, or not.
        cfg.train_cfg.val_interval = 3 if stopped == 'accumulating' else 2
        cfg.optim_wrapper.accumulative_counts = 2 if stopped == 'accumulating' else 1
        cfg.update(launcher='none', experiment_name=uuid.uuid4().hex, **options)
        runner = CPURunner.from_cfg(cfg)
        runner.train()
        return runner

    whole = trained('whole')
    first = trained('first', iters=3) if stopped == 'at its end' else whole
    resumed = trained('resumed', resume=True, load_from=f'{first.work_dir}/iter_3.pth')
    assert bool(saved(first, 'iter_3.pth')['se_mm']['recalibrated']) is (stopped == 'at its end')
    for part in ('state_dict', *(['ema_state_dict'] if kind == 'classifier' else [])):
        assert_same(saved(whole)[part], saved(resumed)[part])
    assert_same(whole.model.state_dict(), resumed.model.state_dict())


def test_teacher_of_a_pair_sees_what_its_student_sees(runs):
    runner = runs.pair(OWN)
    model = runner.model
    batches = []
    data = runner.build_dataloader(
        {**runner.cfg.train_dataloader, 'dataset': runner.train_dataloader.dataset}, seed=0
    )
    # The student sees the labelled images and the last view of the others.
    seed_all((0, 0, 4))
    for _, batch in zip(range(4), data):
        batch = model.data_preprocessor(batch, True)['inputs']
        batches.append(torch.cat([batch['labelled'], batch['views'][-1]]))
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    update_bn(batches, model.teacher)
    for name in (MEAN, VAR):
        torch.testing.assert_close(model.teacher.state_dict()[name], before[name])


def test_averaged_model_that_the_model_updates_can_be_recalibrated(toys):
    kept = dict(OWN, recalibrate_batches=3)
    runner = toys.train(Momentum, kept, **VALIDATING)
    teacher = runner.model.target.module
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    update_bn(Sums().inputs[:12].split(4), teacher)
    for name in ('1.running_mean', '1.running_var'):
        torch.testing.assert_close(teacher.state_dict()[name], before[name])
    without = toys.train(Momentum, COPY, **VALIDATING)
    assert_same(without.model.encoder.state_dict(), runner.model.encoder.state_dict())


@MODELS.register_module(force=True)
class OtherNorms(Toy):
    """Norms that are trained, frozen, unused and of other kinds, and a buffer that counts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        )
        self.group, self.layer = nn.GroupNorm(2, 6), nn.LayerNorm(6)
        self.instance = nn.InstanceNorm1d(1, track_running_stats=True)
        self.unused = nn.BatchNorm1d(6)
        self.register_buffer('calls', torch.zeros(()))

    def train(self, mode=True):
        super().train(mode)
        self.net[3].eval()
        return self

    def predict(self, inputs):
        self.calls += 1
        inputs = self.layer(self.group(self.net(inputs)))
        return self.instance(inputs[:, None]).mean((1, 2))[:, None]


def test_only_batch_norms_that_are_trained_and_used_are_recalibrated(toys):
    without, own = (toys.train(OtherNorms, hook, **VALIDATING) for hook in (COPY, OWN))
    teacher = hook_of(own).teacher.module
    one, other = hook_of(without).teacher.module.state_dict(), teacher.state_dict()
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert changed == {'net.2.running_mean', 'net.2.running_var'}
    # Dropout is off, as in an evaluation.
    batches = teacher.net[0](Sums().inputs[:16].view(4, 4, 6))
    torch.testing.assert_close(other['net.2.running_mean'], batches.mean((0, 1)))
    torch.testing.assert_close(other['net.2.running_var'], batches.var(1).mean(0))
    assert own.model.calls == without.model.calls
    assert set(hook_of(own).updater.training_statistics) == changed


def test_model_without_batch_norm_says_so_once_and_goes_on(toys, monkeypatch):
    runner = toys.build(Plain, OWN, **VALIDATING)
    said = []
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *a, **k: said.append(text))
    runner.train()
    assert [text for text in said if 'recalibrate' in text] == [
        "the teacher has no batch norm: buffers='recalibrate' does the same as 'copy'."
    ]
    assert_same(runner.model.state_dict(), toys.train(Plain, COPY, **VALIDATING).model.state_dict())


def test_checkpoint_of_the_middle_is_recalibrated_for_a_test(runs, classifier_cfg):
    trained = runs.classifier(OWN)
    path = f'{trained.work_dir}/iter_3.pth'
    tested = runs.build(classifier_cfg, OWN, dict(type='WatchRunHook'), load_from=path)
    tested.test()
    assert_recomputed(tested.cfg, watch_of(tested).evaluated[0])
    student = runs.build(
        classifier_cfg, dict(OWN, evaluate_on='student'), dict(type='WatchRunHook'), load_from=path
    )
    student.test()
    assert torch.equal(
        watch_of(student).evaluated[0][MEAN],
        saved(trained, 'iter_3.pth')['ema_state_dict'][f'module.{MEAN}'],
    )


def test_pair_of_the_middle_is_recalibrated_for_a_validation(runs, pair_cfg):
    trained = runs.pair(OWN)
    path = f'{trained.work_dir}/iter_3.pth'
    runner = runs.build(pair_cfg, OWN, load_from=path)
    before = saved(trained, 'iter_3.pth')['state_dict']
    runner.val()
    changed = {n for n, v in runner.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {f'teacher.{MEAN}', f'teacher.{VAR}'}


def test_trial_of_the_validation_leaves_the_statistics_of_the_training(runs, pair_cfg):
    def tried(runner):
        updater = hook_of(runner, 'SETMAHook').updater
        before = {name: value.clone() for name, value in updater.tensors().items()}
        assert updater.started and try_validation(runner)
        assert_same(before, updater.tensors())
        return updater.training_statistics

    runner = runs.build(pair_cfg, OWN, max_iters=1)
    runner.register_hook(AtStartHook(tried))
    runner.train()
    assert hook_of(runner, 'AtStartHook').found == {}


def test_test_without_training_data_is_refused(runs, classifier_cfg):
    cfg = classifier_cfg(runs.folder / 'test', [OWN], launcher='none')
    cfg.update(train_dataloader=None, train_cfg=None, optim_wrapper=None)
    with pytest.raises(OptionError, match='needs train_dataloader as a config, got none: add it'):
        CPURunner.from_cfg(cfg).test()


def test_built_dataloader_is_refused_before_the_first_iteration(toys):
    runner = toys.build(Momentum, OWN, train_dataloader=DataLoader(Sums(), batch_size=4))
    with pytest.raises(OptionError, match='needs train_dataloader as a config, got a DataLoader'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('count', [0, -1, 2.5, True, '50'])
def test_count_of_batches_is_checked(toys, count):
    with pytest.raises(
        OptionError, match=f'recalibrate_batches must be an integer >= 1, got {count!r}'
    ):
        toys.build(Momentum, dict(OWN, recalibrate_batches=count))


def test_what_cannot_be_recalibrated_is_refused():
    with pytest.raises(OptionError, match='needs equal teachers on all ranks'):
        HOOKS.build(dict(OWN, diff_rank_picks=True))
    with pytest.raises(OptionError, match=r'needs a run of MMEngine.*update_bn'):
        SpatialEnsemble(nn.Linear(2, 2), buffers='recalibrate')


MODEL = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS

@MODELS.register_module()
class Normed(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6)

    def forward(self, inputs, mode='tensor'):
        return {'loss': (self.norm(self.linear(inputs)) - inputs).square().mean()}

@MODELS.register_module()
class NormedPair(BaseModel):
    def __init__(self):
        super().__init__()
        for name in ('student', 'teacher'):
            setattr(self, name, torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6)))
        self.teacher.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, inputs, mode='tensor'):
        with torch.no_grad():
            target = self.teacher(inputs)
        return {'loss': (self.student(inputs) - inputs - target).square().mean()}

@DATASETS.register_module()
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        return dict(inputs=torch.randn(6, generator=torch.Generator().manual_seed(index)))

@HOOKS.register_module()
class DumpRank(Hook):
    priority = 'LOW'

    def after_train(self, runner):
        (hook,) = (h for h in runner.hooks if hasattr(h, 'teacher'))
        both = [m.state_dict() for m in (hook.teacher.module, runner.model.module)]
        torch.save(both, f'{runner.work_dir}/rank{get_rank()}.pth')
"""

CONFIG = """
custom_imports = dict(imports=['se_mm', 'normed'], allow_failed_imports=False)
model = dict(type='Normed')
train_dataloader = dict(
    batch_size=4, num_workers=0, dataset=dict(type='Numbers'),
    sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3))
custom_hooks = [
    dict(type='SETMAHook', keep_prob=0.5, momentum=0.1, buffers='recalibrate',
         recalibrate_batches=3),
    dict(type='DumpRank')]
randomness = dict(seed=0)
"""


def on_two_ranks(folder, *options):
    """Teacher and model of each rank of a run, trained."""
    (folder / 'normed.py').write_text(MODEL)
    (folder / 'config.py').write_text(CONFIG)
    tool = Path(__file__).parents[3] / 'tools/dist_train.sh'
    process = start(folder, 'bash', tool, 'config.py', 2, *options, PORT=free_port())
    assert process.wait(timeout=600) == 0, [p.read_text()[-3000:] for p in folder.glob('*.log')]
    return [torch.load(folder / options[1] / f'rank{rank}.pth') for rank in range(2)]


def test_two_ranks_have_the_statistics_of_the_batches_of_both(tmp_path):
    (one, student), (other, other_student) = on_two_ranks(tmp_path, '--work-dir', 'two')
    assert_same(one, other)
    assert not torch.equal(student['norm.running_mean'], other_student['norm.running_mean'])
    state = torch.load(tmp_path / 'two/iter_3.pth')['state_dict']
    teacher = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    teacher.load_state_dict(
        {f'{"ln".index(n[0])}.{n.partition(".")[2]}': v for n, v in state.items()}
    )
    numbers = [torch.randn(6, generator=torch.Generator().manual_seed(i)) for i in range(24)]
    # Ranks take turns.
    update_bn([torch.stack(numbers[r::2][i : i + 4]) for r in (0, 1) for i in (0, 4, 8)], teacher)
    for name in ('running_mean', 'running_var'):
        torch.testing.assert_close(one[f'norm.{name}'], teacher[1].state_dict()[name])
        assert torch.equal(one[f'norm.{name}'], state[f'norm.{name}'])


def test_exact_resume_on_two_ranks_after_the_last_checkpoint(tmp_path):
    pair = ('--cfg-options', 'model.type=NormedPair')
    on_two_ranks(tmp_path, '--work-dir', 'first', *pair)
    longer = (*pair, 'train_cfg.max_iters=6')
    whole = on_two_ranks(tmp_path, '--work-dir', 'whole', *longer)
    resumed = on_two_ranks(tmp_path, '--work-dir', 'on', '--resume', 'first/iter_3.pth', *longer)
    for left, right in zip(whole, resumed):
        assert_same(left[1], right[1])
    assert not torch.equal(*(model['student.1.running_mean'] for _, model in whole))
