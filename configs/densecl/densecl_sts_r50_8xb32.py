# DenseCL, ResNet-50, ImageNet, 200 epochs, with an STS teacher: the recipe's moving average,
# applied only to the picked units.
#
# Reproduces nothing published: mmpretrain's recipe, but SETMAHook updates the teacher, with the
# paper's keep_prob for MoCo, on which DenseCL is based.
#
#   bash tools/dist_train.sh configs/densecl/densecl_sts_r50_8xb32.py 8
_base_ = './densecl_se_r50_8xb32.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.5)]
