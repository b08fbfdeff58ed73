# Linear evaluation of BYOL on glyphs on photographs.
#
# Reproduces nothing published: the layers of linear_r50_8xb32.py, without augmentation and at a
# learning rate for 2,760 iterations. (Where batch norm follows, the weights of a linear layer only
# grow by steps that are too long, and then turn too slowly.) On two CPU cores in 2 minutes, with a
# checkpoint of the pretraining:
#   python tools/train.py configs/transfer/linear_conv5_1xb128_glyphs.py --cfg-options \
#       model.backbone.init_cfg.checkpoint=work_dirs/byol_sts_conv5_1xb128_glyphs/iter_600.pth
# which evaluates the student. For the teacher add
#       model.backbone.init_cfg.prefix=target_net.module.0.
_base_ = ['../_base_/byol_small.py', '../_base_/glyphs.py']

backbone = _base_.model.backbone
backbone.frozen_stages = 5  # parameters and the statistics of BatchNorm
backbone.init_cfg = dict(type='Pretrained', checkpoint='', prefix='backbone.')
preprocessor = _base_.model.data_preprocessor
preprocessor.type = 'ClsDataPreprocessor'
model = dict(
    _delete_=True,
    type='ImageClassifier',
    data_preprocessor=preprocessor,
    backbone=backbone,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearBNHead', num_classes=20, in_channels=_base_.model.neck.in_channels),
)

train_dataloader = dict(
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(pipeline=_base_.test_pipeline),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.003, momentum=0.9, weight_decay=0.0)
)
max_epochs = 60
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True)]
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=max_epochs, val_interval=20)
val_cfg = dict(_delete_=True)
test_cfg = dict(_delete_=True)

default_hooks = dict(checkpoint=dict(by_epoch=True, interval=max_epochs))
log_processor = dict(by_epoch=True)
# Names what is wrong with the checkpoint, instead of evaluating random weights.
custom_hooks = [dict(type='PretrainedCheckHook')]
