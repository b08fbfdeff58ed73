# BYOL with an STS teacher on scikit-learn's handwritten digits, for `make demo`. Same horizon as
# TMA with momentum 0.01.
#
# Reproduces nothing published. On one CPU core, in two minutes:
#   python tools/train.py configs/byol/byol_sts_conv5_1xb128_digits.py
_base_ = './byol_tma_conv5_1xb128_digits.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.7, momentum=0.01, match_horizon=True)]
