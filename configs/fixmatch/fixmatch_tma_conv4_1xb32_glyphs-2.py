# FixMatch with a TMA teacher on glyphs, 2 labels for each of 20 letters.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/fixmatch/fixmatch_tma_conv4_1xb32_glyphs-2.py
_base_ = '../_base_/fixmatch_glyphs.py'

train_dataloader = dict(dataset=dict(split=dict(num_labels=40)))
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.05, buffers='average_norms')]
