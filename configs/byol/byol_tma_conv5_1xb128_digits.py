# BYOL with a TMA teacher, on scikit-learn's 1,797 handwritten digits, for `make demo`: pretrained
# without labels, probed with 5 labels per digit.
#
# Reproduces nothing published. On one CPU core, in two minutes:
#   python tools/train.py configs/byol/byol_tma_conv5_1xb128_digits.py
_base_ = '../_base_/byol_small.py'

# Batched views.
_view = [
    dict(type='RandomAffine', degrees=20, shear=20, translate=(0.15, 0.15), scale=(0.75, 1.25)),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4),
    dict(type='RandomErasing', p=0.5, scale=(0.02, 0.12)),
]
model = dict(
    data_preprocessor=dict(type='BatchViewsPreprocessor', views=[_view, _view], groups=16),
    backbone=dict(channels=(16, 32, 32, 64, 64), strides=(1, 2, 1, 2, 1)),
    neck=dict(in_channels=64),
)

_images = dict(type='Digits', size=16, pipeline=[dict(type='PackInputs')])
_loader = dict(batch_size=250, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(_images, split='train'),
)
val_dataloader = dict(_loader, dataset=dict(_images, split='test'))
val_cfg = dict(
    type='ProbeLoop',
    # The probes are trained on the first 50 training images.
    bank=dict(_loader, dataset=dict(_images, split='train', indices=50)),
    probes=[dict(type='KNNProbe', k=1), dict(type='LinearProbe')],
    on=['teacher', 'student'],
    layer='backbone',
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_cfg = val_cfg
test_evaluator = val_evaluator

max_iters = 1000
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='CosineAnnealingLR', by_epoch=False, begin=40, end=max_iters, eta_min=0.0),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
# With keep_prob=0, the hook is a plain moving average.
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.01)]
