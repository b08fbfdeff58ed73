# DenseCL, ResNet-50, ImageNet, 200 epochs, with an STS teacher: the recipe's average, applied to
# the units that are picked at an update.
#
# Reproduces nothing published: mmpretrain's recipe, and the teacher's update by the last line,
# with the paper's keep_prob for MoCo, of which DenseCL is made.
#
#   bash tools/dist_train.sh configs/densecl/densecl_sts_r50_8xb32.py 8
_base_ = './densecl_se_r50_8xb32.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.5)]
