# FixMatch on CIFAR-10, small enough for one CPU core: six convolutions, 32 labelled and 3 x 32
# unlabelled images per iteration, batched views. Needs CIFAR-10 as images, in `train` and `test`
# with a subfolder per class. A config adds the number of labels and the hook.
_base_ = ['./fixmatch.py', './batch_views.py']

data_root = 'data/cifar10'

model = dict(
    type='FixMatch',
    # Lower than the published 0.95, which confidences rarely reach in so few iterations.
    threshold=0.8,
    classifier=dict(
        type='ImageClassifier',
        backbone=dict(
            type='ConvNet', channels=(16, 16, 32, 32, 64, 64), strides=(2, 1, 2, 1, 2, 1)
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    ),
    data_preprocessor=dict(
        mean=[120.0] * 3,
        std=[64.0] * 3,
        to_rgb=True,
        views=[_base_.weak_batch_view, _base_.strong_batch_view],
        groups=8,
    ),
)
_load = dict(type='LoadImageFromFile')
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    batch_sampler=dict(mu=3),
    dataset=dict(
        labelled=dict(type='ImageFolder', data_root=data_root, data_prefix='train'),
        split=dict(seed=0),
        labelled_pipeline=[_load, dict(type='PackInputs')],
        unlabelled_pipeline=[
            _load,
            dict(type='MultiView', num_views=[1], transforms=[[]]),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='ImageFolder',
        data_root=data_root,
        data_prefix='test',
        pipeline=[_load, dict(type='PackInputs')],
    )
)
test_dataloader = val_dataloader

max_iters = 1500
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [dict(_base_.param_scheduler[0], T_max=max_iters * 16 / 7, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(interval=500, max_keep_ckpts=1),
    pseudo_labels=dict(interval=100),
)
