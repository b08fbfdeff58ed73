# BYOL with a TMA teacher: ResNet-18 on 100,000 images of 52 letters on photographs at full
# contrast, 100 epochs. studies/byol_r18_glyphs-100k.py compares variants of it.
#
# Reproduces nothing published; not measured here. On one GPU:
#   python tools/train.py configs/byol/byol_tma_r18_1xb256_glyphs-100k.py
_base_ = ['./byol_tma_conv5_1xb128_glyphs.py', '../_base_/resnet18_cifar.py']

model = dict(
    backbone=dict(_base_.resnet18, _delete_=True),
    neck=dict(in_channels=512, hid_channels=1024, out_channels=128),
    head=dict(predictor=dict(in_channels=128, hid_channels=1024, out_channels=128)),
)

images = dict(num_images=100_000, num_classes=52, contrast=1.0)
train_dataloader = dict(batch_size=256, num_workers=8, dataset=images)
# The probes use only some of the training images, to keep evaluations short.
val_cfg = dict(bank=dict(dataset=dict(images, num_images=20_000)))
val_dataloader = dict(dataset=dict(images, num_images=10_000))
test_cfg = val_cfg
test_dataloader = val_dataloader

max_iters = 100 * 100_000 // 256
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=2000),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=2000, end=max_iters, eta_min=0.0),
]
train_cfg = dict(max_iters=max_iters, val_interval=10_000)
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=5000))
