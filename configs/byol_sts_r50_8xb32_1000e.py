# BYOL + STS, ResNet-50, ImageNet, 1000 epochs: the released recipe. 8 GPUs with 32 images each.
#
# Reproduces the code released with Spatial Ensemble (NeurIPS 2021, tengteng95/Spatial_Ensemble),
# whose readme gives 74.5 / 91.8 top-1 / top-5 in linear evaluation. Not run here.
# byol_sts_r50_8xb32.py lists the differences from that code.
#
#   bash tools/dist_train.sh configs/byol_sts_r50_8xb32_1000e.py 8
_base_ = './byol_sts_r50_8xb32.py'

max_epochs = 1000
param_scheduler = [
    _base_.param_scheduler[0],
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs - _base_.warmup_epochs,
        by_epoch=True,
        begin=_base_.warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs)
