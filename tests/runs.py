# SPDX-License-Identifier: Apache-2.0
"""A small BYOL, a classifier and a FixMatch on real digits, trained by MMEngine's Runner."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

import se_mm  # noqa: F401  (registers the hooks)

pytest.importorskip('mmpretrain')

IMAGES = 48


def digit_images():
    """48 real digits as float images (N, 3, 8, 8)."""
    images = load_digits().images[:IMAGES].astype(np.float32) / 16
    return torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1)


@DATASETS.register_module(force=True)
class TwoViewsOfDigits(Dataset):
    """Two fixed views of each digit, so that the data of a run is known."""

    metainfo = {'classes': tuple('0123456789')}

    def __init__(self):
        self.images = digit_images()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return {'inputs': [image, image.roll(1, dims=-1)], 'data_samples': index}


def changed(cfg, changes):
    """A config with changes merged in; a train_cfg is replaced."""
    cfg = Config(copy.deepcopy(cfg))
    cfg.train_cfg = changes.pop('train_cfg', cfg.train_cfg)
    cfg.merge_from_dict(changes)
    return cfg


def small_byol_cfg(work_dir, hooks=(), max_iters=6, **changes):
    """The config of a BYOL run of a few iterations of 8 images."""
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(
            type='BYOL',
            base_momentum=0.05,
            backbone=dict(
                type='ResNet_CIFAR',
                depth=18,
                stem_channels=8,
                base_channels=8,
                num_stages=2,
                strides=(1, 2),
                dilations=(1, 1),
                out_indices=(1,),
            ),
            neck=dict(
                type='NonLinearNeck',
                in_channels=16,
                hid_channels=16,
                out_channels=8,
                num_layers=2,
                with_last_bn=False,
                with_avg_pool=True,
            ),
            head=dict(
                type='LatentPredictHead',
                predictor=dict(
                    type='NonLinearNeck',
                    in_channels=8,
                    hid_channels=16,
                    out_channels=8,
                    num_layers=2,
                    with_last_bn=False,
                    with_avg_pool=False,
                ),
                loss=dict(type='CosineSimilarityLoss'),
            ),
        ),
        train_dataloader=dict(
            batch_size=8,
            num_workers=0,
            drop_last=True,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=dict(type='TwoViewsOfDigits'),
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=max_iters),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
        ),
        custom_hooks=list(hooks),
        work_dir=str(work_dir),
        randomness=dict(seed=0),
        log_level='ERROR',
    )
    return changed(cfg, changes)


@MODELS.register_module(force=True)
class SmallClassifierBackbone(torch.nn.Module):
    """A convolution and a batch norm; what mmpretrain expects of a backbone."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 3)
        self.norm = torch.nn.BatchNorm2d(6)

    def forward(self, inputs):
        return (self.norm(self.conv(inputs)).relu(),)


@MODELS.register_module(force=True)
class BFloat16Backbone(SmallClassifierBackbone):
    """The same with all its weights in bfloat16."""

    def __init__(self):
        super().__init__()
        self.bfloat16()

    def forward(self, inputs):
        (features,) = super().forward(inputs.bfloat16())
        return (features.float(),)


@DATASETS.register_module(force=True)
class LabelledDigits(Dataset):
    """Digits with their labels."""

    metainfo = {'classes': tuple('0123456789')}

    def __init__(self):
        self.images = digit_images()
        self.labels = load_digits().target[:IMAGES]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample

        sample = DataSample().set_gt_label(int(self.labels[index]))
        return {'inputs': self.images[index], 'data_samples': sample}


def small_classifier_cfg(work_dir, hooks=(), max_iters=6, **changes):
    """The config of a classifier without any teacher in it."""
    loader = dict(
        batch_size=8,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='LabelledDigits'),
    )
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='SmallClassifierBackbone'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=6),
        ),
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        val_evaluator=dict(type='Accuracy'),
        test_evaluator=dict(type='Accuracy'),
        val_cfg=dict(),
        test_cfg=dict(),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False)),
        custom_hooks=list(hooks),
        work_dir=str(work_dir),
        randomness=dict(seed=0),
        log_level='ERROR',
    )
    return changed(cfg, changes)


def small_pair_cfg(work_dir, hooks=(), max_iters=6, **changes):
    """The config of a FixMatch run: 10 labelled digits and all of them as unlabelled ones."""
    digits = dict(type='Digits', split='test', size=8)
    view = [dict(type='RandomCrop', crop_size=8, padding=1)]
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(
            type='FixMatch',
            threshold=0.3,
            data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
            classifier=dict(
                type='ImageClassifier',
                backbone=dict(type='SmallClassifierBackbone'),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=6),
            ),
        ),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type='InfiniteSampler'),
            batch_sampler=dict(type='MultiSourceBatchSampler', mu=2),
            collate_fn=dict(type='collate_views'),
            dataset=dict(
                type='SemiSupervisedDataset',
                labelled=digits,
                split=dict(num_labels=10, seed=0),
                labelled_pipeline=[*view, dict(type='PackInputs')],
                unlabelled_pipeline=[
                    dict(type='MultiView', num_views=[2], transforms=[view]),
                    dict(type='PackInputs'),
                ],
            ),
        ),
        val_dataloader=dict(
            batch_size=64,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(**digits, pipeline=[dict(type='PackInputs')]),
        ),
        val_evaluator=dict(type='Accuracy'),
        val_cfg=dict(type='TeacherStudentLoop'),
        train_cfg=dict(type='SemiSupervisedTrainLoop', max_iters=max_iters, val_interval=max_iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
            pseudo_labels=dict(type='PseudoLabelHook', interval=2),
        ),
        custom_hooks=list(hooks),
        work_dir=str(work_dir),
        randomness=dict(seed=0),
        log_level='ERROR',
    )
    return changed(cfg, changes)


def losses_of(runner):
    """The losses that a run logged, one for each iteration."""
    history = runner.message_hub.log_scalars['train/loss']
    assert isinstance(history, HistoryBuffer)
    return history.data[0].tolist()


class Runs:
    """Starts runs below a folder of their own."""

    losses = staticmethod(losses_of)

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def build(self, cfg_of, *hooks, **changes):
        """A runner that is not started."""
        self.count += 1
        work_dir = changes.pop('work_dir', self.folder / str(self.count))
        cls = changes.pop('cls', Runner)
        # Runs of one name share what they log, and the default name is the time in seconds.
        name = f'{self.folder.name}-{self.count}'
        return cls.from_cfg(cfg_of(work_dir, hooks, experiment_name=name, **changes))

    def byol(self, *hooks, **changes):
        """A BYOL run, trained."""
        runner = self.build(small_byol_cfg, *hooks, **changes)
        runner.train()
        return runner

    def cfg_of(self, kind):
        """The function that makes the config of a kind of run."""
        return {
            'byol': small_byol_cfg,
            'classifier': small_classifier_cfg,
            'pair': small_pair_cfg,
        }[kind]

    def classifier(self, *hooks, **changes):
        """A classifier's run, trained."""
        runner = self.build(small_classifier_cfg, *hooks, **changes)
        runner.train()
        return runner

    def pair(self, *hooks, **changes):
        """A FixMatch run, trained."""
        runner = self.build(small_pair_cfg, *hooks, **changes)
        runner.train()
        return runner


@pytest.fixture
def runs(tmp_path):
    """Starts small runs."""
    return Runs(tmp_path)


@pytest.fixture
def byol_cfg():
    """The function that makes the config of a small BYOL run."""
    return small_byol_cfg


@pytest.fixture
def pair_cfg():
    """The function that makes the config of a small FixMatch run."""
    return small_pair_cfg


@pytest.fixture
def classifier_cfg():
    """The function that makes the config of a small classifier's run."""
    return small_classifier_cfg
