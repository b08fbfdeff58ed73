# Linear evaluation of ResNet-50 on ImageNet: the released recipe. 8 GPUs with 32 images each.
#
# Reproduces the linear evaluation of the code released with Spatial Ensemble (NeurIPS 2021,
# tengteng95/Spatial_Ensemble): a linear layer followed by BatchNorm1d on frozen features, SGD with
# learning rate 0.2 at batch size 256, momentum 0.9, no weight decay, and a cosine schedule over 80
# epochs. Not run here.
#
#   bash tools/dist_train.sh configs/transfer/linear_r50_8xb32.py 8 --cfg-options \
#       model.backbone.init_cfg.checkpoint=work_dirs/byol_sts_r50_8xb32/epoch_200.pth
# This evaluates the student. For the teacher of BYOL, add (for MoCo, use encoder_k.module.0.)
#       model.backbone.init_cfg.prefix=target_net.module.0.
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        frozen_stages=4,  # parameters and batch-norm statistics
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    head=dict(type='LinearBNHead'),
)

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=0.0))
max_epochs = 80
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True)]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=256)

default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=3))
# Reports a wrong checkpoint instead of evaluating random weights.
custom_hooks = [dict(type='PretrainedCheckHook')]
