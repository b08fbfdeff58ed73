# BYOL with an SE teacher on glyphs on photographs. Same horizon as TMA with momentum 0.01.
#
# Reproduces nothing published. On two CPU cores:
#   python tools/train.py configs/byol/byol_se_conv5_1xb128_glyphs.py
_base_ = './byol_tma_conv5_1xb128_glyphs.py'

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.99)]
