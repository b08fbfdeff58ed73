# MoCo v2 with an STS teacher on CIFAR-10, as slow as the average of
# mocov2_tma_conv6_1xb128_cifar10.py.
#
# Reproduces nothing published. About five minutes on one core:
#   python tools/train.py configs/moco/mocov2_sts_conv6_1xb128_cifar10.py
_base_ = './mocov2_tma_conv6_1xb128_cifar10.py'

custom_hooks = [
    dict(type='SETMAHook', keep_prob=0.5, match_horizon=True),
    dict(type='ChannelsLastHook'),
]
