# Thirty teachers beside one supervised ResNet-18 on CIFAR-10, as in
# supervised_shadows_conv6_1xb64_cifar10.py, for a GPU: bfloat16 and channels last.
#
# Reproduces nothing published; not measured here. Needs CIFAR-10 as images, in a folder per class.
# Takes minutes on one large GPU:
#   python tools/train.py configs/shadows/supervised_shadows_r18_1xb256-amp_cifar10.py
#   python tools/compare.py supervised_shadows_r18_1xb256-amp_cifar10 --metric accuracy/top1
_base_ = ['./supervised_shadows_conv6_1xb64_cifar10.py', '../_base_/resnet18_cifar.py']

model = dict(
    backbone=dict(_base_.resnet18, _delete_=True),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=256, num_workers=12)
val_dataloader = dict(batch_size=500, num_workers=4, persistent_workers=True)
optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')
env_cfg = dict(cudnn_benchmark=True)

max_iters = 4000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
custom_hooks = [*_base_.custom_hooks, dict(type='ChannelsLastHook')]
