# BYOL with an STS teacher on scikit-learn's 1,797 handwritten digits.
#
# Reproduces nothing published; the digits are easy, for trying things out. On two CPU cores:
#   python tools/train.py configs/byol/byol_sts_conv5_1xb128_digits.py
_base_ = ['../_base_/byol_small.py', '../_base_/glyphs.py']

train_dataloader = dict(
    dataset=dict(_delete_=True, type='Digits', split='train', pipeline=_base_.train_pipeline)
)
val_dataloader = dict(
    dataset=dict(_delete_=True, type='Digits', split='test', pipeline=_base_.test_pipeline)
)
val_cfg = dict(
    bank=dict(
        dataset=dict(_delete_=True, type='Digits', split='train', pipeline=_base_.test_pipeline)
    )
)
test_dataloader = val_dataloader
test_cfg = val_cfg

max_iters = 200
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='CosineAnnealingLR', by_epoch=False, begin=40, end=max_iters, eta_min=0.0),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)

custom_hooks = [dict(type='SETMAHook', keep_prob=0.7, momentum=0.01, match_horizon=True)]
