# FixMatch small enough for two CPU cores: four convolutions, 32 labelled and 4 x 32 unlabelled
# images of 32 x 32 pixels an iteration. What a config adds: the data and the hook that moves the
# teacher.
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

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
weak = [dict(type='RandomCrop', crop_size=32, padding=3, padding_mode='reflect')]
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
    dict(
        type='Lighting', eigval=[1.0] * 3, eigvec=[[1, 0, 0], [0, 1, 0], [0, 0, 1]], alphastd=20.0
    ),
    dict(type='Brightness', **strength, magnitude_range=(0, 0.6)),
    dict(type='Cutout', shape=8, pad_val=127, prob=1.0),
]
labelled_pipeline = [*weak, dict(type='PackInputs')]
unlabelled_pipeline = [
    dict(type='MultiView', num_views=[1, 1], transforms=[weak, strong]),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='MultiSourceBatchSampler', mu=4),
    collate_fn=dict(type='collate_views'),
    dataset=dict(
        type='SemiSupervisedDataset',
        labelled_pipeline=labelled_pipeline,
        unlabelled_pipeline=unlabelled_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=250, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
)
val_cfg = dict(type='TeacherStudentLoop', on=['teacher', 'student'])
val_evaluator = dict(type='Accuracy', topk=1)
test_cfg = val_cfg
test_evaluator = val_evaluator

max_iters = 1000
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
# lr cos(7 pi t / 16 T): a cosine from lr down to -lr in 16 T / 7 steps, of which T are made.
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        T_max=max_iters * 16 / 7,
        eta_min_ratio=-1.0,
        end=max_iters,
    )
]
train_cfg = dict(type='SemiSupervisedTrainLoop', max_iters=max_iters, val_interval=500)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=250,
        max_keep_ckpts=1,
    ),
    pseudo_labels=dict(type='PseudoLabelHook', interval=50),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
