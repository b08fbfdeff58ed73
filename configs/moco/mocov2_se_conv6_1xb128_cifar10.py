# MoCo v2 with an SE teacher on CIFAR-10, as slow as the average of
# mocov2_tma_conv6_1xb128_cifar10.py.
#
# Reproduces nothing published. About five minutes on one core:
#   python tools/train.py configs/moco/mocov2_se_conv6_1xb128_cifar10.py
_base_ = './mocov2_tma_conv6_1xb128_cifar10.py'

custom_hooks = [
    dict(type='SpatialEnsembleHook', keep_prob=0.99),
    dict(type='ChannelsLastHook'),
]
