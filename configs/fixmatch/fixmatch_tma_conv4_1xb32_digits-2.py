# FixMatch with a TMA teacher on scikit-learn's digits, 2 labels for each.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/fixmatch/fixmatch_tma_conv4_1xb32_digits-2.py
_base_ = '../_base_/fixmatch_digits.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.05, buffers='average_norms')]
