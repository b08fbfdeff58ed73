# FixMatch's published schedule for images of 32 x 32 pixels: 2^20 steps of 64 labelled and 7 x 64
# unlabelled images, threshold 0.95, SGD of learning rate 0.03 with a cosine of 7/16 of a half turn.
# What a config adds: the data and the hook that moves the teacher.
_base_ = './randaugment_2_10.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

model = dict(
    type='FixMatch',
    threshold=0.95,
    unlabelled_weight=1.0,
    labeller='teacher',
    predict_on='teacher',
    classifier=dict(
        type='ImageClassifier',
        backbone=dict(type='WideResNet', depth=28, width=2),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=128,
            init_cfg=dict(type='Xavier', layer='Linear', distribution='normal'),
        ),
    ),
)

weak = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=32, padding=4, padding_mode='reflect'),
]
labelled_pipeline = [*weak, dict(type='PackInputs')]
unlabelled_pipeline = [
    dict(type='MultiView', num_views=[1, 1], transforms=[weak, [*weak, *_base_.randaugment]]),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='MultiSourceBatchSampler', mu=7),
    collate_fn=dict(type='collate_views'),
    dataset=dict(
        type='SemiSupervisedDataset',
        labelled_pipeline=labelled_pipeline,
        unlabelled_pipeline=unlabelled_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_cfg = dict(type='TeacherStudentLoop', on=['teacher', 'student'])
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_cfg = val_cfg
test_evaluator = val_evaluator

max_iters = 2**20
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
train_cfg = dict(type='SemiSupervisedTrainLoop', max_iters=max_iters, val_interval=2**12)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=128, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2**12, max_keep_ckpts=2),
    pseudo_labels=dict(type='PseudoLabelHook', interval=128),
)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=64)
randomness = dict(seed=0)
