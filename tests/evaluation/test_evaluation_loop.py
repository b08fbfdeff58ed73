# SPDX-License-Identifier: Apache-2.0
"""Our loops measure every image once, whatever the number of processes, or refuse to."""

import pytest
import torch.utils.data as torch_data
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader

import se_mm  # noqa: F401  (registers what the configs name)
from se_mm.evaluation import evaluation_loop
from se_mm.home import CONFIGS
from se_mm.smoothing import OptionError

IMAGES = list(range(10))
SMALL = sorted(
    path
    for path in CONFIGS.glob('*.py')
    if 'r50' not in path.stem and Config.fromfile(path).get('test_dataloader')
)


@pytest.mark.parametrize('path', SMALL, ids=lambda path: path.stem)
def test_shipped_config_divides_its_test_images_among_processes(path):
    cfg = Config.fromfile(path)
    for loader in (cfg.test_dataloader, cfg.val_dataloader, cfg.test_cfg.get('bank')):
        if loader is not None:
            assert loader.sampler == dict(type='DefaultSampler', shuffle=False)
            assert loader.batch_size >= 1
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_evaluator == cfg.val_evaluator


def check(monkeypatch, ranks, **options):
    monkeypatch.setattr(evaluation_loop, 'get_world_size', lambda: ranks)
    evaluation_loop._check_sampler('test_dataloader', DataLoader(IMAGES, **options))


@pytest.mark.parametrize(
    'sampler',
    [
        torch_data.SequentialSampler(IMAGES),
        torch_data.RandomSampler(IMAGES),
        torch_data.SubsetRandomSampler(IMAGES[:3]),
        torch_data.WeightedRandomSampler([1.0] * 10, 10),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_several_processes_need_a_sampler_that_divides(monkeypatch, sampler):
    check(monkeypatch, 1, sampler=sampler)
    for options in (
        dict(sampler=sampler),
        dict(batch_sampler=torch_data.BatchSampler(sampler, 4, False)),
    ):
        with pytest.raises(OptionError, match=r'divide the images among 2 processes, got \w+; use'):
            check(monkeypatch, 2, **options)


def test_samplers_that_divide_pass(monkeypatch):
    check(monkeypatch, 2, sampler=DefaultSampler(IMAGES, shuffle=False, seed=0))
    distributed = torch_data.DistributedSampler(IMAGES, num_replicas=2, rank=0)
    check(monkeypatch, 2, sampler=distributed)


def test_loader_without_an_end_or_without_the_last_images_is_refused(monkeypatch):
    with pytest.raises(OptionError, match='must end after all images, got InfiniteSampler'):
        check(monkeypatch, 1, sampler=InfiniteSampler(IMAGES, seed=0))
    with pytest.raises(OptionError, match='drop_last must be False'):
        check(monkeypatch, 1, batch_size=4, drop_last=True)
