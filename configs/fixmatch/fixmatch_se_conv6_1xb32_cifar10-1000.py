# FixMatch with an SE teacher on CIFAR-10 with 1,000 labels, as fast as TMA of momentum
# 0.01.
#
# Reproduces nothing published. CIFAR-10 as a folder of images for each class, `train` and `test`;
# about two minutes on one core:
#   python tools/train.py configs/fixmatch/fixmatch_se_conv6_1xb32_cifar10-1000.py
_base_ = '../_base_/fixmatch_cifar10_small.py'

train_dataloader = dict(dataset=dict(split=dict(num_labels=1000)))
custom_hooks = [
    dict(type='SpatialEnsembleHook', keep_prob=0.99, buffers='average_norms'),
    dict(type='ChannelsLastHook'),
]
