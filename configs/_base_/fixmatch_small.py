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
uniform = dict(magnitude_level=10, total_level=10, magnitude_std='inf', prob=1.0)
shape = [
    [dict(type='Rotate', **uniform, magnitude_range=(0, 30))],
    [dict(type='Shear', **uniform, magnitude_range=(0, 0.3), direction='horizontal')],
    [dict(type='Shear', **uniform, magnitude_range=(0, 0.3), direction='vertical')],
    [dict(type='Translate', **uniform, magnitude_range=(0, 0.2), direction='horizontal')],
    [dict(type='Translate', **uniform, magnitude_range=(0, 0.2), direction='vertical')],
]
colour = [
    [],
    [dict(type='Brightness', **uniform, magnitude_range=(0, 0.8))],
    [dict(type='Contrast', **uniform, magnitude_range=(0, 0.8))],
    [dict(type='ColorTransform', **uniform, magnitude_range=(0, 0.9))],
    [dict(type='Posterize', **uniform, magnitude_range=(4, 8))],
]
strong = [
    *weak,
    dict(type='Invert', prob=0.5),
    dict(type='RandomChoice', transforms=shape),
    dict(type='RandomChoice', transforms=colour),
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

max_iters = 1000
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-3, weight_decay=1e-2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=40, end=max_iters, eta_min=0.0),
]
train_cfg = dict(type='SemiSupervisedTrainLoop', max_iters=max_iters, val_interval=250)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
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
