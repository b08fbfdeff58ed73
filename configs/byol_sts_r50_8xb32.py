# BYOL + STS, ResNet-50, ImageNet, 200 epochs: the released recipe. 8 GPUs with 32 images each.
#
# Reproduces the code released with Spatial Ensemble (NeurIPS 2021, tengteng95/Spatial_Ensemble),
# whose readme gives 72.7 / 90.9 top-1 / top-5 in linear evaluation. Not run here. It differs from
# that code on purpose: the first update copies everything, all ranks make the same picks, and
# batch-norm statistics are copied from the student.
#
#   bash tools/dist_train.sh configs/byol_sts_r50_8xb32.py 8
# Then evaluate with linear_r50_8xb32.py.
_base_ = 'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

# The teacher's momentum decays from 0.01 (0.99 in the paper) to 0 along a cosine over the run.
model = dict(base_momentum=0.01)
custom_hooks = [dict(type='SETMAHook', keep_prob=0.7)]

# Without _delete_, MMEngine passes the inherited `_scope_` key to the collate function.
train_dataloader = dict(
    batch_size=32,
    collate_fn=dict(_delete_=True, type='default_collate'),
    # `data_prefix` names the folder; `split` would search for it under another data_root, too.
    dataset=dict(split='', data_prefix='train'),
)
auto_scale_lr = dict(base_batch_size=256)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4),
)

# 10 epochs of warm-up from 1e-6, then a cosine to 0, both updated per iteration.
warmup_epochs = 10
max_epochs = 200
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 0.05,
        by_epoch=True,
        begin=0,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs - warmup_epochs,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs)
