# MoCo v2 with its moving average (TMA) on CIFAR-10, probed by nearest neighbours and linearly.
#
# Reproduces nothing published. CIFAR-10 as a folder of images for each class, `train` and `test`;
# about five minutes on one core:
#   python tools/train.py configs/moco/mocov2_tma_conv6_1xb128_cifar10.py
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

data_root = 'data/cifar10'

# Views are made of whole batches.
_view = [
    dict(type='RandomResizedCrop', size=32, scale=(0.3, 1.0), antialias=False),
    dict(type='RandomHorizontalFlip'),
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
        ],
    ),
    dict(type='RandomGrayscale', p=0.2),
]
model = dict(
    type='MoCo',
    queue_len=4096,
    feat_dim=64,
    momentum=0.01,
    data_preprocessor=dict(
        type='BatchViewsPreprocessor',
        views=[_view, _view],
        groups=32,
        mean=[120.0] * 3,
        std=[64.0] * 3,
        to_rgb=True,
    ),
    backbone=dict(type='ConvNet', channels=(16, 16, 32, 32, 64, 64), strides=(2, 1, 2, 1, 2, 1)),
    neck=dict(
        type='MoCoV2Neck', in_channels=64, hid_channels=64, out_channels=64, with_avg_pool=True
    ),
    head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.1),
)

_load = dict(type='LoadImageFromFile')
_images = dict(type='ImageFolder', data_root=data_root, pipeline=[_load, dict(type='PackInputs')])
_loader = dict(batch_size=250, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(_images, data_prefix='train'),
)
val_dataloader = dict(_loader, dataset=dict(_images, data_prefix='test'))
val_cfg = dict(
    type='ProbeLoop',
    # The probes learn from every tenth training image.
    bank=dict(
        _loader, dataset=dict(_images, data_prefix='train', indices=list(range(0, 50000, 10)))
    ),
    probes=[dict(type='KNNProbe', k=20), dict(type='LinearProbe')],
    on=['teacher', 'student'],
    layer='backbone',
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_cfg = val_cfg
test_evaluator = val_evaluator

max_iters = 2000
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.12, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=0.0),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
# With keep_prob=0 the hook is the model's average alone.
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0), dict(type='ChannelsLastHook')]

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
