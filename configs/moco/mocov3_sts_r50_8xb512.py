# MoCo v3, ResNet-50, ImageNet, 100 epochs, with an STS teacher: the recipe's moving average,
# applied only to the picked units.
#
# Reproduces nothing published: mmpretrain's recipe, but SETMAHook updates the teacher. The paper
# gives keep_prob=0.5 for MoCo; its code for MoCo was not released.
#
#   bash tools/dist_train.sh configs/moco/mocov3_sts_r50_8xb512.py 8
_base_ = './mocov3_se_r50_8xb512.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.5)]
