# MoCo v2 with a TMA teacher and a ResNet-18 on CIFAR-10, as in mocov2_tma_conv6_1xb128_cifar10.py,
# for a GPU: bfloat16 and channels last.
#
# Reproduces nothing published; not measured here. Needs CIFAR-10 as images, in a folder per class.
#   python tools/train.py configs/moco/mocov2_tma_r18_1xb256-amp_cifar10.py
_base_ = ['./mocov2_tma_conv6_1xb128_cifar10.py', '../_base_/resnet18_cifar.py']

model = dict(
    feat_dim=128,
    backbone=dict(_base_.resnet18, _delete_=True),
    neck=dict(in_channels=512, hid_channels=512, out_channels=128),
)
train_dataloader = dict(batch_size=256, num_workers=4)
optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')
env_cfg = dict(cudnn_benchmark=True)
