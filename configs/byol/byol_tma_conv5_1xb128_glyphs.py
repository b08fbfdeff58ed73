# BYOL with a TMA teacher, on glyphs on photographs.
#
# Reproduces nothing published. On two CPU cores:
#   python tools/train.py configs/byol/byol_tma_conv5_1xb128_glyphs.py
_base_ = ['../_base_/byol_small.py', '../_base_/glyphs.py']

# With keep_prob=0, the hook is a plain moving average. The constant momentum keeps the horizon the
# same during the whole run.
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.01)]
