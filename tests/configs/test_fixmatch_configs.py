# SPDX-License-Identifier: Apache-2.0
"""The FixMatch configs train to their end by the published schedule, shrunk in size."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import se_mm  # noqa: F401  (registers what they name)
from se_mm.engine.launch import build_runner

pytest.importorskip('mmpretrain')
pytest.importorskip('scipy')
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tests/datasets'))
import archives  # noqa: E402

CONFIGS = sorted((ROOT / 'configs/fixmatch').glob('*match*.py'))
CONFIGS += [
    ROOT / f'configs/fixmatch/{m}_tma_conv4_1xb32_glyphs-4.py'
    for m in ('meanteacher', 'pseudolabel')
]
CONFIGS += [ROOT / 'configs/fixmatch/supervised_tma_conv4_1xb32_glyphs-4.py']
PUBLISHED = [path for path in CONFIGS if 'wrn' in path.stem and 'short' not in path.stem]
HOOKS = {
    'tma': dict(type='SETMAHook', keep_prob=0.0, momentum=0.001, buffers='average_norms'),
    'se': dict(type='SpatialEnsembleHook', keep_prob=0.999, buffers='average_norms'),
    'sts': dict(type='SETMAHook', keep_prob=0.5, momentum=0.001),
}
ITERS = 10


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The archives, of few images, and what makes their readers take them."""
    folder = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    test = archives.random_set(rng, 20, 10)
    changes = {
        **archives.write_cifar10(folder / 'cifar10', archives.random_set(rng, 200, 10), test),
        **archives.write_cifar100(
            folder / 'cifar100',
            archives.random_set(rng, 200, 100),
            archives.random_set(rng, 100, 100),
            [f'class {i}' for i in range(100)],
        ),
        **archives.write_svhn(folder / 'svhn', train=archives.random_set(rng, 200, 10), test=test),
    }
    # The small configs read CIFAR-10 as folders of images.
    for name in range(10):
        for split, number in (('train', 12), ('test', 2)):
            images = folder / f'cifar10/{split}/class {name}'
            images.mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(images / f'{index}.png')
    return folder, changes


def shrunk(path, folder, work_dir):
    """A config whose whole schedule is ten iterations of a small network."""
    cfg = Config.fromfile(path)
    factor = cfg.param_scheduler[0].T_max / cfg.train_cfg.max_iters
    cfg.train_cfg.update(max_iters=ITERS, val_interval=ITERS)
    cfg.param_scheduler[0].update(T_max=ITERS * factor, end=ITERS)
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.val_dataloader.update(batch_size=20, num_workers=0, persistent_workers=False)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.pseudo_labels.interval = 1
    backbone = cfg.model.classifier.backbone
    if backbone.type == 'WideResNet':
        backbone.update(depth=10, width=1)
        cfg.model.classifier.head.in_channels = 64
    split = cfg.train_dataloader.dataset.split
    split.num_labels = min(split.num_labels, 100)
    labelled, evaluated = cfg.train_dataloader.dataset.labelled, cfg.val_dataloader.dataset
    for dataset in (labelled, evaluated):
        if 'data_root' in dataset:
            dataset.data_root = str(folder / Path(dataset.data_root).name)
        if dataset.type == 'Glyphs':
            dataset.num_images = 200 if dataset is labelled else 20
    cfg.merge_from_dict(
        dict(work_dir=str(work_dir), launcher='none', experiment_name=path.stem, log_level='ERROR')
    )
    return cfg


def logged(work_dir):
    (path,) = Path(work_dir).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    'path', [path for path in CONFIGS if 'folder' not in path.stem], ids=lambda path: path.stem
)
def test_whole_schedule_is_trained_at_the_published_learning_rate(
    path, data, tmp_path, monkeypatch
):
    folder, changes = data
    for target, value in changes.items():
        monkeypatch.setattr(target, value)
    cfg = shrunk(path, folder, tmp_path)
    highest = cfg.optim_wrapper.optimizer.lr
    assert highest == (0.1 if 'conv6' in path.stem else 0.03)
    runner = build_runner(cfg)
    assert isinstance(runner, Runner)
    runner.train()
    lines = logged(tmp_path)
    rates = [line['lr'] for line in lines if 'loss' in line]
    assert len(rates) == ITERS
    for step in (0, 2, 4, 7, 9):
        assert rates[step] == pytest.approx(highest * math.cos(7 * math.pi * step / (16 * ITERS)))
    assert {'teacher/accuracy/top1', 'student/accuracy/top1'} <= set(lines[-1])
    assert lines[-1]['step'] == ITERS
    assert (tmp_path / 'split.json').exists()


@pytest.mark.parametrize('path', PUBLISHED, ids=lambda path: path.stem)
def test_published_settings(path):
    cfg = Config.fromfile(path)
    _, smoothing, arch, batch, data = path.stem.split('_')
    name, labels = data.split('-')
    assert batch in ('1xb64', '1xb64-amp')
    assert cfg.train_dataloader.batch_size == 64
    assert cfg.train_dataloader.batch_sampler.mu == 7
    assert cfg.train_dataloader.dataset.split.num_labels == int(labels)
    amp = [dict(type='ChannelsLastHook')] if batch.endswith('-amp') else []
    assert cfg.custom_hooks == [HOOKS[smoothing], *amp]
    assert cfg.train_cfg.max_iters == 2**20
    assert cfg.model.threshold == 0.95
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.nesterov) == (0.03, 0.9, True)
    assert optimizer.weight_decay == (1e-3 if name == 'cifar100' else 5e-4)
    assert cfg.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0.0, bias_decay_mult=0.0)
    backbone = cfg.model.classifier.backbone
    assert f'wrn{backbone.depth}-{backbone.width}' == arch
    assert cfg.model.classifier.head.in_channels == 64 * backbone.width
    scheduler = cfg.param_scheduler[0]
    for share in (0, 0.25, 0.5, 0.75, 1):
        rate = scheduler.eta_min_ratio + (1 - scheduler.eta_min_ratio) / 2 * (
            1 + math.cos(math.pi * share * cfg.train_cfg.max_iters / scheduler.T_max)
        )
        assert rate == pytest.approx(math.cos(7 * math.pi * share / 16), abs=1e-9)
    flips = [transform.type == 'RandomFlip' for transform in cfg.weak]
    assert any(flips) == (name != 'svhn')
