# BYOL with an STS teacher on glyphs on photographs. Same horizon as TMA with momentum 0.01.
#
# Reproduces nothing published. On two CPU cores:
#   python tools/train.py configs/byol/byol_sts_conv5_1xb128_glyphs.py
_base_ = './byol_tma_conv5_1xb128_glyphs.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.7, momentum=0.01, match_horizon=True)]
