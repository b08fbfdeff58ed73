# wip
_base_ = './_base_/fixmatch_small.py'
data = dict(type='Glyphs', contrast=0.3)
train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='Glyphs', split='train', num_images=4000, contrast=0.3),
        split=dict(num_labels=80, seed=0),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='Glyphs', split='test', num_images=1000, contrast=0.3, pipeline=_base_.test_pipeline
    )
)
test_dataloader = val_dataloader
test_cfg = _base_.val_cfg
test_evaluator = _base_.val_evaluator
custom_hooks = [dict(type='SETMAHook', keep_prob=0.5, momentum=0.02, match_horizon=True)]
