# MoCo v3, ResNet-50, ImageNet, 100 epochs, with an STS teacher: the recipe's average, applied to
# the units that are picked at an update.
#
# Reproduces nothing published: mmpretrain's recipe, and the teacher's update by the last line:
# the paper gives keep_prob=0.5 for MoCo, and no MoCo code of
# its own was released.
#
#   bash tools/dist_train.sh configs/moco/mocov3_sts_r50_8xb512.py 8
_base_ = './mocov3_se_r50_8xb512.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.5)]
