# SPDX-License-Identifier: Apache-2.0
"""Every kind of teacher of mmpretrain's and mmdet's own configs, switched by one line and trained.

The configs are shrunk to seconds as the table says; every other config alike is bound on the meta
device at full size.
"""

import copy
import itertools
import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, TRANSFORMS
from sklearn.datasets import load_digits
from stock_configs import (
    NOT_SUPPORTED,
    REPLACED,
    STOCK,
    configs_with_a_teacher,
    load,
    small_config,
    switched,
)

from se_mm.engine import SpatialEnsembleHook
from se_mm.engine.launch import build_runner
from se_mm.rng import seed_all

Image = pytest.importorskip('PIL.Image')

SE = dict(type='SpatialEnsembleHook', keep_prob=0.5)
STS = dict(type='SETMAHook', keep_prob=0.5)
TMA = dict(type='SETMAHook', keep_prob=0)
LIBRARIES = ('mmpretrain', 'mmdet')


@TRANSFORMS.register_module(force=True)
class SeedByImage:
    """Makes what the transforms after it draw, and then the model, a function of the image."""

    def __call__(self, results):
        seed_all((0, 0, results['sample_idx']))
        return results


@pytest.fixture(scope='module', autouse=True)
def plain_text():
    """Writes configs without laying them out, which takes longer than to train these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(lambda cfg: repr(cfg.to_dict())))
        yield


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Sixteen images in ImageNet's layout, and eight scenes with boxes as COCO's files are."""
    from se_mm.datasets import DigitScenes

    folder = tmp_path_factory.mktemp('data')
    digits = load_digits()
    lines = []
    for index in range(16):
        name = f'n{digits.target[index]:08d}/{index}.JPEG'
        path = folder / 'imagenet/train' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).convert('RGB')
        image.resize((40, 40)).save(path)
        lines.append(f'{name} {digits.target[index]}')
    (folder / 'imagenet/meta').mkdir()
    (folder / 'imagenet/meta/train.txt').write_text('\n'.join(lines))
    scenes = DigitScenes(num_images=8)
    coco = scenes.coco()
    # Names that mmdet's configs know, so that their number of classes stays.
    names = ('person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat')
    for category, name in zip(coco['categories'], (*names, 'traffic light')):
        category['name'] = name
    for index, image in enumerate(coco['images']):
        path = folder / 'coco' / image['file_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes.get_data_info(index)['img'][..., ::-1]).save(path)
    (folder / 'coco/train.json').write_text(json.dumps(coco))
    return folder


@HOOKS.register_module(force=True)
class StockTeacherHook(Hook):
    """Keeps the teacher that the stock config would have, of the same student, beside ours.

    Args:
        path: Dotted name of the teacher, for one that lies in the model.
        line: The line of the hook that was replaced.
    """

    priority = 'VERY_HIGH'

    def __init__(self, path, line):
        self.path, self.line = path, line
        self.start = None

    def before_run(self, runner):
        """Called before ours, which then puts a module of its own into the model."""
        if self.path:
            self.teacher = copy.deepcopy(runner.model.get_submodule(self.path))

    def before_train(self, runner):
        """Called before ours, with the weights as they are initialised or loaded."""
        (self.ours,) = [h for h in runner.hooks if isinstance(h, SpatialEnsembleHook)]
        self.updater, self.module = self.ours.updater, self.ours.teacher.module
        self.start = copy.deepcopy(self.module.state_dict())
        kind = self.ours.teacher.kind
        if kind == 'shadow':
            options = {k: v for k, v in self.line.items() if k not in ('type', 'priority')}
            options.pop('evaluate_on_origin', None)
            average = options.pop('ema_type', 'ExponentialMovingAverage')
            self.teacher = MODELS.build(dict(type=average, model=runner.model, **options))
        follow = {
            'averaged': self.average,
            'shadow': self.average,
            'pair': partial(self.mix, momenta(0.001)),
            'method': partial(self.mix, momenta(1 - getattr(runner.model, 'momentum', 0))),
        }[kind]
        update = self.updater.ensemble.update

        def update_both(student, interval=None):
            follow(student)
            update(student, interval=interval)

        self.updater.ensemble.update = update_both

    def average(self, student):
        self.teacher.update_parameters(student)

    @torch.no_grad()
    def mix(self, momenta, student):
        momentum = next(momenta)
        for ours, theirs in zip(self.teacher.parameters(), student.parameters()):
            ours.mul_(1 - momentum).add_(theirs, alpha=momentum)

    def pairs(self):
        """Name, ours and the other's: of parameters, and of a shadow's averaged buffers too."""
        stock = getattr(self.teacher, 'module', self.teacher)
        ours = self.module.state_dict()
        names = dict(stock.named_parameters())
        if self.ours.teacher.kind == 'shadow':
            # Stock averages leave integers as they were at the start, and with update_buffers move
            # a tensor that has two names, such as RTMDet's shared convolutions, twice an update.
            state = stock.state_dict()
            count = Counter(value.data_ptr() for value in state.values())
            names = {
                k: v for k, v in state.items() if v.is_floating_point() and count[v.data_ptr()] == 1
            }
        return [(name, ours[name], value) for name, value in names.items()]


def momenta(value):
    """A pair's teacher begins as a copy."""
    return itertools.chain([1.0], itertools.repeat(value))


class Trained:
    """Runs of one row, each trained when it is first asked for."""

    def __init__(self, stock, data, folder):
        self.stock, self.data, self.folder = stock, data, folder
        self.watchers = {}

    def run(self, name, hook=None, resume=None, max_iters=4):
        """A work dir in which the row was trained, with our hook or as it is."""
        work_dir = self.folder / name
        if work_dir.exists():
            return work_dir
        cfg = small_config(self.stock, self.data, work_dir)
        lines = [line for line in cfg.get('custom_hooks') or [] if line['type'] in REPLACED]
        if hook:
            cfg = switched(cfg, hook)
        cfg.train_cfg.max_iters = max_iters
        cfg.experiment_name = f'{self.folder.name}-{name}'
        if resume:
            cfg.load_from, cfg.resume = str(resume), True
        runner = build_runner(cfg)
        if hook:
            path = self.stock.follows.split()[0] if self.stock.kind != 'shadow' else ''
            self.watchers[name] = StockTeacherHook(path, lines[0] if lines else None)
            runner.register_hook(self.watchers[name])
        runner.train()
        return work_dir

    def checkpoint(self, work_dir, step=4):
        return torch.load(work_dir / f'iter_{step}.pth')


@pytest.fixture(scope='module', params=STOCK, ids=lambda stock: stock.config.split('/')[-1][:-3])
def trained(request, data, tmp_path_factory):
    """The runs of a row of the table."""
    pytest.importorskip(request.param.package)
    return Trained(request.param, data, tmp_path_factory.mktemp('runs'))


def tensors_of(checkpoint):
    """All tensors of a checkpoint by name: student, teacher and optimizer."""
    found = {f'state_dict.{k}': v for k, v in checkpoint['state_dict'].items()}
    found |= {f'ema.{k}': v for k, v in checkpoint.get('ema_state_dict', {}).items()}
    for index, state in checkpoint['optimizer']['state'].items():
        found |= {f'{index}.{k}': v for k, v in state.items() if isinstance(v, torch.Tensor)}
    return found


def test_teacher_is_found_and_named(trained):
    trained.run('sts', STS)
    teacher = trained.watchers['sts'].ours.teacher
    assert teacher.kind == trained.stock.kind
    assert str(teacher) == trained.stock.follows


def test_without_keeping_the_teacher_is_the_stock_config_s_own(trained):
    trained.run('tma', TMA)
    pairs = trained.watchers['tma'].pairs()
    assert len(pairs) > 5
    for name, ours, stock in pairs:
        torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize('name, hook', [('sts', STS), ('se', SE)])
def test_teacher_moves_and_is_neither_its_student_nor_its_start(trained, name, hook):
    trained.run(name, hook)
    watcher = trained.watchers[name]
    smoother = watcher.updater.smoother
    pairs = [pair for pair in smoother.named().values() if pair.student.requires_grad]
    assert all(torch.isfinite(pair.teacher).all() for pair in pairs)
    assert not all(torch.equal(pair.teacher, pair.student) for pair in pairs)
    now = watcher.module.state_dict()
    assert any(not torch.equal(now[key], value) for key, value in watcher.start.items())


def test_resumed_run_is_the_uninterrupted_one(trained):
    whole = trained.run('sts', STS)
    resumed = trained.run('resumed', STS, resume=whole / 'iter_2.pth')
    first, second = (tensors_of(trained.checkpoint(path)) for path in (whole, resumed))
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_stock_checkpoint_goes_on_under_our_hook(trained):
    stock = trained.run('stock')
    ours = trained.run('from_stock', STS, resume=stock / 'iter_2.pth')
    names = list(tensors_of(trained.checkpoint(stock)))
    assert list(tensors_of(trained.checkpoint(ours))) == names
    # The teacher is a history: nothing is copied on the way.
    start = trained.watchers['from_stock'].start
    saved = trained.checkpoint(stock, 2)['state_dict']
    prefix = {'averaged': '.module.', 'pair': '.', 'method': '.', 'shadow': ''}
    path = trained.watchers['from_stock'].path + prefix[trained.stock.kind]
    assert all(torch.equal(value, saved[path + key]) for key, value in start.items())


def test_our_checkpoint_goes_on_in_the_stock_config(trained):
    ours = trained.run('sts', STS)
    after = trained.run('to_stock', resume=ours / 'iter_4.pth', max_iters=6)
    names = list(tensors_of(trained.checkpoint(ours)))
    assert list(tensors_of(trained.checkpoint(after, 6))) == names


@pytest.mark.parametrize('library', LIBRARIES)
def test_table_covers_every_config_of_the_library_with_an_averaged_teacher(library):
    pytest.importorskip(library)
    names = configs_with_a_teacher(library)
    assert len(names) > 10
    known = [*STOCK, *(type(STOCK[0])(pattern, '', '') for pattern in NOT_SUPPORTED)]
    missing = [name for name in names if not any(stock.covers(name) for stock in known)]
    assert missing == [], 'stock configs with an averaged teacher that the table lacks'
    idle = [s.config for s in STOCK if s.package == library and s.config not in names]
    assert idle == [], 'configs of the table that have no averaged teacher'


@pytest.mark.parametrize('stock', STOCK, ids=lambda stock: stock.config.split('/')[-1][:-3])
def test_all_configs_alike_bind_at_full_size_on_the_meta_device(stock, monkeypatch):
    pytest.importorskip(stock.package)
    # Backbones read the rates of their drop paths off a tensor.
    monkeypatch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))
    names = [name for name in configs_with_a_teacher(stock.package) if stock.covers(name)]
    assert stock.config in names
    for name in names:
        cfg = switched(load(name), STS)
        line = next(dict(line) for line in cfg.custom_hooks if line['type'] == 'SETMAHook')
        line.pop('priority', None)
        with torch.device('meta'):
            # A tracker needs packages of its own; all its weights are its detector's.
            tracks = 'tracker' in cfg.model
            model = MODELS.build(cfg.model.detector if tracks else cfg.model)
        hook = HOOKS.build(line)
        updater = hook.bind(model)
        assert hook.teacher.kind == stock.kind, name
        assert len(updater.smoother.named()) > 0
