# FixMatch small enough for two CPU cores: four convolutions, 32 labelled and 4 x 32 unlabelled
# images of 32 x 32 pixels an iteration. What a config adds: the data and the hook that moves the
# teacher.
_base_ = './fixmatch.py'

model = dict(
    type='FixMatch',
    classifier=dict(
        type='ImageClassifier',
        backbone=dict(type='ConvNet', channels=(16, 32, 64, 128), strides=(2, 1, 2, 2)),
        # Flattens the map: where a stroke is tells letters apart.
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
    data_preprocessor=dict(mean=[127.5] * 3, std=[63.75] * 3, to_rgb=True),
)

# Letters and digits are not their mirror images, so there is no flip.
weak = [dict(type='RandomCrop', crop_size=32, padding=3)]
# A dark letter on a light ground is the same as a light one on a dark ground.
strength = dict(magnitude_level=10, total_level=10, magnitude_std='inf', prob=1.0)
strong = [
    *weak,
    dict(type='Rotate', **strength, magnitude_range=(0, 25)),
    dict(type='Shear', **strength, magnitude_range=(0, 0.3), direction='horizontal'),
    dict(type='Invert', prob=0.5),
    dict(
        type='RandomGrayscale', prob=0.5, keep_channels=True, channel_weights=(0.114, 0.587, 0.2989)
    ),
    # Another cast of colour. Values beyond 0 and 255 wrap around, so borders become colourful.
    dict(
        type='Lighting', eigval=[1.0] * 3, eigvec=[[1, 0, 0], [0, 1, 0], [0, 0, 1]], alphastd=20.0
    ),
    dict(type='Brightness', **strength, magnitude_range=(0, 0.6)),
    dict(type='Cutout', shape=8, pad_val=127, prob=1.0),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    batch_sampler=dict(mu=4),
    dataset=dict(
        labelled_pipeline=[*weak, dict(type='PackInputs')],
        unlabelled_pipeline=[
            dict(type='MultiView', num_views=[1, 1], transforms=[weak, strong]),
            dict(type='PackInputs'),
        ],
    ),
)

max_iters = 1000
param_scheduler = [dict(_base_.param_scheduler[0], T_max=max_iters * 16 / 7, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=500)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=500, max_keep_ckpts=1),
    pseudo_labels=dict(interval=50),
)
