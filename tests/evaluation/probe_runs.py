# SPDX-License-Identifier: Apache-2.0
"""A small stock BYOL run over scikit-learn's digits, for the tests of this folder."""

import os

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import DATASETS, TASK_UTILS
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

import se_mm  # noqa: F401 -- registers ProbeLoop
from se_mm.engine.runner.cpu import CPURunner
from se_mm.evaluation import KNNProbe

BANK, TEST = 301, 151  # odd, so that two ranks need padding


@DATASETS.register_module()
class SmallDigits(Dataset):
    """Handwritten digits of 8 x 8, enlarged to 3 x 16 x 16 uint8.

    Args:
        first: Index of the first image.
        size: Number of images.
        views: None for one image, else as many noisy views of it.
        labelled: Whether the samples have labels.
    """

    def __init__(self, first=0, size=BANK, views=None, labelled=True):
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images[first : first + size] * 15.9).to(torch.uint8)
        self.images = images.repeat_interleave(2, 1).repeat_interleave(2, 2)
        self.labels = digits.target[first : first + size]
        self.views = views
        self.labelled = labelled

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index].expand(3, -1, -1)
        sample = DataSample()
        if self.labelled:
            sample.set_gt_label(int(self.labels[index]))
        if self.views:
            image = [
                (image + 60 * torch.rand(image.shape)).clamp(0, 255) for _ in range(self.views)
            ]
        return dict(inputs=image, data_samples=sample)


@TASK_UTILS.register_module()
class RecordingProbe(KNNProbe):
    """A kNN probe that shows what it was given, in the order teacher, student."""

    seen = []

    def fit(self, features, labels):
        super().fit(features, labels)
        self.seen.append(dict(bank=features, labels=labels))

    def scores(self, features):
        self.seen[-1]['features'] = features
        return super().scores(features)


def loader(sampler=None, **dataset):
    """Config of a dataloader of SmallDigits."""
    config = dict(batch_size=64, num_workers=0, dataset=dict(type='SmallDigits', **dataset))
    return dict(config, sampler=sampler) if sampler else config


def evaluation_loader(**dataset):
    """Config of the evaluation's dataloader."""
    sampler = dict(type='DefaultSampler', shuffle=False)
    return loader(sampler, **{'first': BANK, 'size': TEST, **dataset})


def byol_model():
    """Config of mmpretrain's BYOL with a tiny ResNet-18."""
    neck = dict(
        type='NonLinearNeck',
        hid_channels=32,
        out_channels=16,
        num_layers=2,
        with_last_bn=False,
        norm_cfg=dict(type='BN1d'),  # SyncBN, the default, cannot be distributed on CPUs
    )
    return dict(
        type='BYOL',
        base_momentum=0.01,
        data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3),
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=8,
            stem_channels=8,
            norm_cfg=dict(type='BN'),
            frozen_stages=0,  # in training mode, except for the stem's BatchNorm
        ),
        neck=dict(neck, in_channels=64, with_avg_pool=True),
        head=dict(
            type='LatentPredictHead',
            predictor=dict(neck, in_channels=16, with_avg_pool=False),
            loss=dict(type='CosineSimilarityLoss'),
        ),
    )


def classifier():
    """Config of a classifier with the same backbone."""
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
        backbone=byol_model()['backbone'],
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    )


def probe_config(**options):
    """Config of the loop, with faster probes."""
    probes = [dict(type='KNNProbe', k=5), dict(type='LinearProbe', max_iter=30)]
    return dict(dict(type='ProbeLoop', bank=loader(), probes=probes), **options)


def byol_run(work_dir, **changes):
    """Config of two epochs of BYOL with the probes as validation and as test."""
    train = loader(dict(type='DefaultSampler', shuffle=True), views=2)
    accuracy = dict(type='Accuracy', topk=(1, 5))
    config = dict(
        default_scope='mmpretrain',
        work_dir=str(work_dir),
        model=byol_model(),
        train_dataloader=dict(train, drop_last=True, collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        val_cfg=probe_config(),
        val_dataloader=evaluation_loader(),
        val_evaluator=accuracy,
        test_cfg=probe_config(),
        test_dataloader=evaluation_loader(),
        test_evaluator=accuracy,
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2)),
        randomness=dict(seed=0),
        log_level='WARNING',
    )
    return Config({**config, **changes})


def measure_on_rank(rank, world_size, folder, options):
    """Test in one process of several and write the metrics; to be spawned."""
    torch.set_num_threads(1)
    os.chdir(folder)  # where metrics are gathered through files
    os.environ['LOCAL_RANK'] = str(rank)  # as torchrun does
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=world_size)
    config = byol_run(f'{folder}/{rank}', launcher='pytorch', **options)
    metrics = CPURunner.from_cfg(config).test()
    torch.save((metrics, RecordingProbe.seen), f'{folder}/metrics_{rank}.pth')
    dist.destroy_process_group()
