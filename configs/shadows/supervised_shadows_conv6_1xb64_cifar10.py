# Thirty teachers beside one supervised student on CIFAR-10: TMA, SE and STS, with tensor and
# channel units, at two horizons, with copied, averaged and recalibrated batch-norm statistics.
#
# Reproduces nothing published. Needs CIFAR-10 as images, in `train` and `test` with a subfolder per
# class. Five minutes on one core:
#   python tools/train.py configs/shadows/supervised_shadows_conv6_1xb64_cifar10.py
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

data_root = 'data/cifar10'
max_iters = 2000

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ConvNet', channels=(32, 32, 64, 64, 128, 128), strides=(2, 1, 2, 1, 2, 1)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=128),
    data_preprocessor=dict(mean=[120.0] * 3, std=[64.0] * 3, to_rgb=True),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ImageFolder',
        data_root=data_root,
        data_prefix='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='RandomCrop', crop_size=32, padding=3),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ImageFolder',
        data_root=data_root,
        data_prefix='test',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
)
val_cfg = dict()
val_evaluator = dict(type='Accuracy', topk=(1,))
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)

# These have the same horizon h: TMA with momentum 1 / h, SE with keep_prob 1 - 1 / h, and STS with
# keep_prob 0.7 and momentum 1 / (0.3 h).
_teachers = dict()
for _h in (30, 300):
    for _buffers in ('copy', 'average', 'recalibrate'):
        _end = f'{_h}-{_buffers}'
        _teachers[f'tma-{_end}'] = dict(keep_prob=0, momentum=1 / _h, buffers=_buffers)
        for _units in ('tensor', 'channel'):
            _teachers[f'se-{_units}-{_end}'] = dict(
                keep_prob=1 - 1 / _h, granularity=_units, buffers=_buffers
            )
            _teachers[f'sts-{_units}-{_end}'] = dict(
                keep_prob=0.7, momentum=1 / (0.3 * _h), granularity=_units, buffers=_buffers
            )
custom_hooks = [dict(type='ShadowsHook', shadows=_teachers, recalibrate_batches=20)]

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
