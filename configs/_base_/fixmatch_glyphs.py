# Letters on photographs with few labels; the test images are separate.
_base_ = './fixmatch_small.py'

train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='Glyphs', split='train', num_images=4000, contrast=0.3),
        split=dict(seed=0),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='Glyphs', split='test', num_images=1000, contrast=0.3, pipeline=_base_.test_pipeline
    )
)
test_dataloader = val_dataloader
