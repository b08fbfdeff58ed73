# Linear evaluation of the demo's BYOL on glyphs on photographs.
#
# Reproduces nothing published: the recipe of linear_r50_8xb32.py at batch 128, and shorter. On two
# CPU cores, with a checkpoint of the pretraining:
#   python tools/train.py configs/linear_r18w16_1xb128_glyphs.py --cfg-options \
#       model.backbone.init_cfg.checkpoint=work_dirs/byol_sts_r18w16_1xb128_glyphs/iter_800.pth
# which evaluates the student. For the teacher add
#       model.backbone.init_cfg.prefix=target_net.module.0.
_base_ = './_base_/glyphs.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[127.5] * 3, std=[63.75] * 3, to_rgb=True),
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        stem_channels=16,
        base_channels=16,
        strides=(2, 2, 2, 2),
        frozen_stages=4,  # parameters and the statistics of BatchNorm
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearBNHead', num_classes=20, in_channels=128),
)

train_pipeline = [
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.4, 1.0)),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(pipeline=train_pipeline)
)

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0))
max_epochs = 20
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True)]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
val_cfg = dict(_delete_=True)
test_cfg = dict(_delete_=True)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20),
    checkpoint=dict(type='CheckpointHook', interval=max_epochs),
)
# Names what is wrong with the checkpoint, instead of evaluating random weights.
custom_hooks = [dict(type='PretrainedCheckHook')]
randomness = dict(seed=0)
