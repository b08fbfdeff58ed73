# SPDX-License-Identifier: Apache-2.0
"""The full-size configs are what their heads say, and run: batch and images alone are shrunk."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path
from sklearn.datasets import load_digits

from se_mm.home import config_names, find_config

Image = pytest.importorskip('PIL.Image')
pytest.importorskip('mmpretrain')
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
TRAININGS = config_names(studies=False)
STOCK = 'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py'


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """Sixteen images in ImageNet's layout, with a list of the training split."""
    folder = tmp_path_factory.mktemp('imagenet')
    digits = load_digits()
    lines = []
    for index in range(16):
        name = f'n{digits.target[index]:08d}/{index}.JPEG'
        path = folder / 'train' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).convert('RGB')
        image.resize((40, 40)).save(path)
        lines.append(f'{name} {digits.target[index]}')
    (folder / 'meta').mkdir()
    (folder / 'meta' / 'train.txt').write_text('\n'.join(lines))
    return folder


def train(config, imagenet, work_dir, epochs, *options, **cfg_options):
    """Train two iterations an epoch, of 8 images of 32 x 32 pixels."""
    changes = {
        'train_dataloader.batch_size': 8,
        'train_dataloader.num_workers': 0,
        'train_dataloader.dataset.data_root': imagenet,
        'train_dataloader.dataset.ann_file': 'meta/train.txt',
        'train_dataloader.dataset.data_prefix': 'train',
        'train_dataloader.dataset.pipeline.1.transforms.0.0.scale': 32,
        'train_dataloader.dataset.pipeline.1.transforms.1.0.scale': 32,
        'train_cfg.max_epochs': epochs,
        **cfg_options,
    }
    settings = [f'{key}={value}' for key, value in changes.items()]
    command = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', work_dir, *options]
    result = subprocess.run(
        [*map(str, command), '--cfg-options', *settings], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def stock_run(imagenet, tmp_path_factory):
    """A work dir in which mmpretrain's own config has been trained for an epoch."""
    folder = tmp_path_factory.mktemp('stock')
    (folder / 'stock.py').write_text(f'_base_ = {STOCK!r}\n')
    train(folder / 'stock.py', imagenet, folder / 'run', 1)
    return folder / 'run'


def load(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def test_se_config_trains_and_its_checkpoint_loads_into_stock_byol(imagenet, tmp_path):
    log = train(CONFIGS / 'byol_se_r50_8xb256.py', imagenet, tmp_path / 'run', 1)
    assert 'SpatialEnsembleHook: target_net (averaged) follows backbone, neck' in log
    checkpoint = load(tmp_path / 'run/epoch_1.pth')
    assert int(checkpoint['state_dict']['target_net.steps']) == 2
    path = Path(get_installed_path('mmpretrain')) / '.mim/configs' / STOCK.split('::')[1]
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(path).model)
    result = model.load_state_dict(checkpoint['state_dict'], strict=False)
    assert result.missing_keys == []
    assert result.unexpected_keys == []


def test_stock_checkpoint_resumes_under_the_sts_config(imagenet, stock_run):
    before = load(stock_run / 'epoch_1.pth')['state_dict']
    log = train(
        CONFIGS / 'byol_sts_r50_8xb256.py',
        imagenet,
        stock_run,
        2,
        '--resume',
        **{'randomness.seed': 0},
    )
    assert 'resumed epoch: 1, iter: 2' in log
    assert 'SETMAHook: the checkpoint was written without it' in log
    after = load(stock_run / 'epoch_2.pth')['state_dict']
    assert list(after) == list(before)
    assert int(after['target_net.steps']) == 4
    # Two updates keep about half of the tensors, and no teacher moves far.
    names = [name for name in after if name.startswith('target_net') and name.endswith('weight')]
    kept = sum(torch.equal(before[name], after[name]) for name in names)
    assert 0.25 < kept / len(names) < 0.75


@pytest.mark.parametrize('name, epochs', [('', 200), ('_300e', 300), ('_1000e', 1000)])
def test_released_recipe(name, epochs):
    cfg = Config.fromfile(CONFIGS / f'byol_sts_r50_8xb32{name}.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ('SGD', 0.05, 0.9)
    assert optimizer.weight_decay == 1e-4
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    assert cfg.train_dataloader.batch_size == 32
    assert cfg.model.base_momentum == 0.01
    assert cfg.custom_hooks == [dict(type='SETMAHook', keep_prob=0.7)]
    assert cfg.train_cfg.max_epochs == epochs
    warmup, cosine = cfg.param_scheduler
    assert warmup.start_factor * optimizer.lr == pytest.approx(1e-6)
    assert (warmup.end, cosine.begin, cosine.end, cosine.T_max) == (10, 10, epochs, epochs - 10)
    assert warmup.convert_to_iter_based and cosine.convert_to_iter_based


@pytest.mark.parametrize('name', TRAININGS)
def test_head_of_a_config_says_what_it_reproduces_and_how_it_is_launched(name):
    head = find_config(name).read_text().split('_base_')[0]
    assert head.startswith('# ')
    assert 'eproduces' in head
    assert f'configs/{name}' in head
    assert 'tools/' in head


@pytest.mark.parametrize('name', TRAININGS)
def test_every_config_builds_its_model(name):
    cfg = Config.fromfile(find_config(name))
    init_default_scope(cfg.default_scope)
    assert sum(p.numel() for p in MODELS.build(cfg.model).parameters()) > 0
