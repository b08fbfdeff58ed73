# FixMatch with an STS teacher on glyphs, 10 labels for each of 20 letters. Same horizon as TMA with
# momentum 0.05.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/fixmatch/fixmatch_sts_conv4_1xb32_glyphs-10.py
_base_ = '../_base_/fixmatch_glyphs.py'

train_dataloader = dict(dataset=dict(split=dict(num_labels=200)))
custom_hooks = [dict(type='SETMAHook', keep_prob=0.5, momentum=0.05, match_horizon=True)]
