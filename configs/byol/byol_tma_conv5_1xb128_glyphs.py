# BYOL with a moving average (TMA) as teacher, on glyphs on photographs.
#
# Reproduces nothing published. On two CPU cores:
#   python tools/train.py configs/byol/byol_tma_conv5_1xb128_glyphs.py
_base_ = ['../_base_/byol_small.py', '../_base_/glyphs.py']

# With keep_prob=0 the hook is the average alone. A constant momentum
# gives one horizon from the first update to the last.
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.01)]
