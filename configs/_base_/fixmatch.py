# Common settings of FixMatch and related methods: data loading, evaluation, and the published
# schedule. It has 2^20 steps of 64 labelled and 7 x 64 unlabelled images, and SGD with learning
# rate 0.03, a cosine schedule over 7/16 of a half period, and no weight decay for norm layers and
# biases.
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

test_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='MultiSourceBatchSampler', mu=7),
    collate_fn=dict(type='collate_views'),
    dataset=dict(type='SemiSupervisedDataset'),
)
val_dataloader = dict(
    batch_size=250, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
)
# Set here because distributed testing needs the sampler as well.
test_dataloader = val_dataloader
val_cfg = dict(type='TeacherStudentLoop', on=['teacher', 'student'])
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_cfg = val_cfg
test_evaluator = val_evaluator

max_iters = 2**20
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
# lr cos(7 pi t / 16 T): a cosine from lr to -lr over 16 T / 7 steps, which ends after T steps.
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
randomness = dict(seed=0)
