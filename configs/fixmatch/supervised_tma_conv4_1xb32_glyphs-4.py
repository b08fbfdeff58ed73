# The labelled glyphs alone, 4 for each of 20 letters: what FixMatch is measured against.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/fixmatch/supervised_tma_conv4_1xb32_glyphs-4.py
_base_ = '../_base_/fixmatch_glyphs.py'

model = dict(type='SupervisedOnly')
train_dataloader = dict(
    batch_sampler=dict(_delete_=True, type='MultiSourceBatchSampler'),
    dataset=dict(split=dict(num_labels=80), unlabelled=False, unlabelled_pipeline=None),
)
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.05, buffers='average_norms')]
