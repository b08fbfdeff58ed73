# MoCo v3, ViT-S/16, ImageNet, 300 epochs, with an STS teacher: the recipe's average, applied to the
# units that are picked at an update.
#
# Reproduces nothing published: mmpretrain's recipe, and the teacher's update by the last line:
# the paper gives keep_prob=0.5 for MoCo, and no MoCo code of
# its own was released.
#
#   bash tools/dist_train.sh configs/moco/mocov3_sts_vit-small-p16_16xb256.py 16
_base_ = './mocov3_se_vit-small-p16_16xb256.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.5)]
