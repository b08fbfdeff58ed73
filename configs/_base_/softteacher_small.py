# Soft Teacher with a small detector on digits on photographs, with one tenth of the scenes
# labelled: 4 labelled and 4 unlabelled scenes per iteration, and only labelled scenes in the first
# half.
_base_ = ['./faster_rcnn_conv5.py', './digit_scenes.py']

model = dict(
    type='SoftTeacher',
    detector=_base_.detector,
    data_preprocessor=dict(
        type='MultiBranchDataPreprocessor', data_preprocessor=_base_.detector.data_preprocessor
    ),
    semi_train_cfg=dict(
        freeze_teacher=True,
        sup_weight=1.0,
        unsup_weight=2.0,
        pseudo_label_initial_score_thr=0.3,
        rpn_pseudo_thr=0.3,
        cls_pseudo_thr=0.9,
        reg_pseudo_thr=0.05,
        jitter_times=3,
        jitter_scale=0.06,
        min_pseudo_bbox_wh=(1e-2, 1e-2),
    ),
    semi_test_cfg=dict(predict_on='teacher'),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='MultiSourceSampler', batch_size=8, source_ratio=[1, 1]),
    dataset=dict(type='ConcatDataset', datasets=[_base_.labelled, _base_.unlabelled]),
)
val_cfg = dict(type='TeacherStudentValLoop')
test_cfg = dict(type='TestLoop')

max_iters = 1000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
burn_in = dict(type='BurnInHook', iters=max_iters // 2)
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=1e-2), clip_grad=dict(max_norm=10)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=0.0),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=max_iters, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
