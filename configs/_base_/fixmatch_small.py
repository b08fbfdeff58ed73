# FixMatch small enough for two CPU cores: four convolutions, 32 labelled and 4 x 32 unlabelled
# images of 32 x 32 pixels per iteration. A config adds the data and the hook that updates the
# teacher.
_base_ = './fixmatch.py'

model = dict(
    type='FixMatch',
    classifier=dict(
        type='ImageClassifier',
        backbone=dict(type='ConvNet', channels=(16, 32, 64, 128), strides=(2, 1, 2, 2)),
        # Flattens the feature map, since the position of a stroke distinguishes letters.
        neck=dict(
            type='LinearNeck',
            in_channels=128 * 4 * 4,
            out_channels=128,
            gap_dim=0,
            norm_cfg=dict(type='BN1d'),
            act_cfg=dict(type='ReLU'),
        ),
        head=dict(type='LinearClsHead', num_classes=20, in_channels=128),
    ),
    data_preprocessor=dict(mean=[127.5] * 3, std=[63.75] * 3, to_rgb=True, groups=16),
)

# Batched views. There is no flip, since mirrored letters and digits are not letters and digits.
# Inverted colours do not change a letter.
weak = [dict(type='RandomCrop', size=32, padding=3)]
strong = [
    *weak,
    dict(type='RandomAffine', degrees=25, shear=17),
    dict(type='RandomInvert', p=0.5),
    dict(type='RandomGrayscale', p=0.5),
    dict(type='ColorJitter', brightness=0.6, saturation=0.5, hue=0.5),
    # Erases a square of 8 x 8 pixels.
    dict(type='RandomErasing', p=1.0, scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0), value=127),
]
model['data_preprocessor']['views'] = [weak, strong]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    batch_sampler=dict(mu=4),
    dataset=dict(
        labelled_pipeline=[dict(type='PackInputs')],
        unlabelled_pipeline=[
            dict(type='MultiView', num_views=[1], transforms=[[]]),
            dict(type='PackInputs'),
        ],
    ),
)

max_iters = 600
param_scheduler = [dict(_base_.param_scheduler[0], T_max=max_iters * 16 / 7, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=300, max_keep_ckpts=1),
    pseudo_labels=dict(interval=50),
)
