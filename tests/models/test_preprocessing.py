# SPDX-License-Identifier: Apache-2.0
"""What a classifier brings along into a semi-supervised model: taken over, or refused by name."""

import copy

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from se_mm.smoothing import OptionError

pytest.importorskip('mmpretrain')
NORM = dict(mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0], to_rgb=True)
HEAD = dict(type='LinearClsHead', num_classes=3, in_channels=8)
MIXUP = [dict(type='Mixup', alpha=0.8)]


def build(classifier=None, head=None, **options):
    init_default_scope('mmpretrain')
    base = dict(
        type='ImageClassifier',
        backbone=dict(type='ConvNet', channels=(8, 8), strides=(2, 2)),
        neck=dict(type='GlobalAveragePooling'),
        head=head or HEAD,
    )
    cfg = dict(type='FixMatch', classifier={**base, **(classifier or {})}, **options)
    return MODELS.build(copy.deepcopy(cfg))


def pixel(model):
    """What the three channels of a grey image become."""
    image = torch.full((2, 3, 8, 8), 200, dtype=torch.uint8)
    batch = dict(
        inputs=dict(labelled=image, views=[image, image]),
        data_samples=dict(labels=torch.tensor([0, 1]), truth=torch.tensor([-1, -1])),
    )
    data = model.data_preprocessor(batch, True)
    assert model(**data, mode='loss')['loss_labelled'].isfinite()
    seen = [data['inputs']['labelled'], *data['inputs']['views']]
    assert all(torch.equal(seen[0], other) for other in seen)
    return seen[0][0, :, 0, 0]


EXPECTED = torch.tensor([100 / 50, 90 / 60, 80 / 70])


@pytest.mark.parametrize(
    'options',
    [
        dict(data_preprocessor=NORM),
        dict(data_preprocessor=dict(NORM, type='ClsDataPreprocessor')),
        dict(data_preprocessor=dict(NORM, type='mmpretrain.ClsDataPreprocessor')),
        dict(data_preprocessor=dict(NORM, type='SemiSupervisedDataPreprocessor', num_classes=3)),
        dict(classifier=dict(data_preprocessor=NORM)),
        dict(classifier=dict(data_preprocessor=dict(NORM, type='ClsDataPreprocessor'))),
        dict(classifier=dict(data_preprocessor=NORM), data_preprocessor={}),
        dict(classifier=dict(data_preprocessor=NORM), data_preprocessor=dict(num_classes=3)),
        dict(classifier=dict(data_preprocessor=NORM), data_preprocessor=NORM),
        dict(
            classifier=dict(data_preprocessor=dict(NORM, mean=(100.0, 110.0, 120.0))),
            data_preprocessor=NORM,
        ),
    ],
)
def test_images_are_normalised_wherever_the_config_says_how(options):
    torch.testing.assert_close(pixel(build(**options)), EXPECTED)


def test_preprocessor_of_a_users_own_is_left_alone():
    from se_mm.models.semi_supervised import SemiSupervisedDataPreprocessor

    class Own(SemiSupervisedDataPreprocessor):
        pass

    MODELS.register_module(module=Own, name='OwnPreprocessor', force=True)
    model = build(data_preprocessor=dict(type='OwnPreprocessor', **NORM))
    assert type(model.data_preprocessor) is Own
    torch.testing.assert_close(pixel(model), EXPECTED)


def test_raw_pixels_are_said(capfd):
    MMLogger.get_instance('raw', log_level='WARNING')
    assert pixel(build()).tolist() == [200.0] * 3
    assert 'images are not normalised' in capfd.readouterr().out


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(classifier=dict(train_cfg=dict(augments=MIXUP))),
            'classifier.train_cfg must be left out: .*not mixed labels.*Mixup',
        ),
        (
            dict(data_preprocessor=dict(batch_augments=dict(augments=MIXUP))),
            'data_preprocessor.batch_augments must be left out',
        ),
        (
            dict(classifier=dict(data_preprocessor=dict(batch_augments=dict(augments=MIXUP)))),
            'data_preprocessor.batch_augments must be left out',
        ),
        (dict(data_preprocessor=dict(to_onehot=True)), 'data_preprocessor.to_onehot must be'),
        (
            dict(
                classifier=dict(data_preprocessor=NORM), data_preprocessor=dict(NORM, to_rgb=False)
            ),
            'data_preprocessor.to_rgb must be that of classifier.*True, got False',
        ),
        (
            dict(data_preprocessor=dict(type='SelfSupDataPreprocessor')),
            "data_preprocessor.type must be 'SemiSupervisedDataPreprocessor', got 'SelfSup",
        ),
        (
            dict(classifier=dict(data_preprocessor=dict(type='TwoNormDataPreprocessor'))),
            'classifier.data_preprocessor.type must be',
        ),
        (
            dict(head=dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=8)),
            'one logit for each class, got MultiLabelLinearClsHead, which has several labels',
        ),
        (
            dict(head=dict(type='MultiTaskHead', task_heads=dict(a=HEAD), in_channels=8)),
            'got MultiTaskHead, which has several tasks',
        ),
        (
            dict(head=dict(type='ConformerHead', num_classes=3, in_channels=[8, 8])),
            'got ConformerHead, which has two scores',
        ),
        (
            dict(head=dict(HEAD, loss=dict(type='CrossEntropyLoss', use_sigmoid=True))),
            'classifier.head.loss.use_sigmoid must be False',
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(options, message):
    with pytest.raises(OptionError, match=message) as error:
        build(**options)
    assert '\n' not in str(error.value)
