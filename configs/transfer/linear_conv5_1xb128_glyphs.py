# Linear evaluation of BYOL on glyphs on photographs.
#
# Reproduces nothing published: the layers of linear_r50_8xb32.py, without augmentation and with a
# learning rate for 2,760 iterations. (In a linear layer followed by batch norm, steps that are too
# large only increase the norm of the weights, and their direction then changes too slowly.) Takes 2
# minutes on two CPU cores, and needs a pretraining checkpoint:
#   python tools/train.py configs/transfer/linear_conv5_1xb128_glyphs.py --cfg-options \
#       model.backbone.init_cfg.checkpoint=work_dirs/byol_sts_conv5_1xb128_glyphs/iter_600.pth
# This evaluates the student. For the teacher, add
#       model.backbone.init_cfg.prefix=target_net.module.0.
_base_ = ['../_base_/byol_small.py', '../_base_/glyphs.py']

backbone = _base_.model.backbone
backbone.frozen_stages = 5  # parameters and batch-norm statistics
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
# Reports a wrong checkpoint instead of evaluating random weights.
custom_hooks = [dict(type='PretrainedCheckHook')]
