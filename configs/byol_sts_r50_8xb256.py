# BYOL, ResNet-50, ImageNet, 200 epochs, with an STS teacher: the recipe's moving average, applied
# only to the picked units. 8 GPUs with 256 images each.
#
# Reproduces nothing published: mmpretrain's BYOL recipe with half the batch size, and therefore
# half the learning rate, but SETMAHook updates the teacher, with the paper's keep_prob for BYOL.
# The paper's own recipe is byol_sts_r50_8xb32.py.
#
#   bash tools/dist_train.sh configs/byol_sts_r50_8xb256.py 8
_base_ = './byol_se_r50_8xb256.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.7)]
