# FixMatch with a TMA teacher on CIFAR-10 with 250 labels, momentum 0.01, shortened to minutes on
# one large GPU: bfloat16, channels last, and batched views on the GPU.
#
# Reproduces nothing published; not measured here. Needs CIFAR-10 as images, in a folder per class.
#   python tools/train.py configs/fixmatch/fixmatch_tma_wrn28-2_1xb64-short_cifar10-250.py
_base_ = '../_base_/fixmatch_cifar10_small.py'

model = dict(
    threshold=0.95,
    classifier=dict(
        backbone=dict(_delete_=True, type='WideResNet', depth=28, width=2),
        head=dict(in_channels=128),
    ),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    batch_sampler=dict(mu=7),
    dataset=dict(split=dict(num_labels=250)),
)

max_iters = 2000
optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', optimizer=dict(lr=0.03))
param_scheduler = [dict(_base_.param_scheduler[0], T_max=max_iters * 16 / 7, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
env_cfg = dict(cudnn_benchmark=True)
custom_hooks = [
    dict(type='SETMAHook', keep_prob=0.0, momentum=0.01, buffers='average_norms'),
    dict(type='ChannelsLastHook'),
]
