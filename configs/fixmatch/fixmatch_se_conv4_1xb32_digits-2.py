# FixMatch with an SE teacher on scikit-learn's digits, 2 labels for each, as fast as TMA of
# momentum 0.05.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/fixmatch/fixmatch_se_conv4_1xb32_digits-2.py
_base_ = '../_base_/fixmatch_digits.py'

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.95, buffers='average_norms')]
