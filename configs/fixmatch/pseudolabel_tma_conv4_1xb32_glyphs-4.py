# Pseudo-label on glyphs, 4 labels for each of 20 letters; the average is what is evaluated.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/fixmatch/pseudolabel_tma_conv4_1xb32_glyphs-4.py
_base_ = '../_base_/fixmatch_glyphs.py'

model = dict(type='PseudoLabel', data_preprocessor=dict(views=[_base_.weak]))
train_dataloader = dict(dataset=dict(split=dict(num_labels=80)))
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.05, buffers='average_norms')]
