# FixMatch with an SE teacher on glyphs, 2 labels for each of 20 letters, as fast as TMA of
# momentum 0.05.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/fixmatch/fixmatch_se_conv4_1xb32_glyphs-2.py
_base_ = '../_base_/fixmatch_glyphs.py'

train_dataloader = dict(dataset=dict(split=dict(num_labels=40)))
custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.95, buffers='average_norms')]
