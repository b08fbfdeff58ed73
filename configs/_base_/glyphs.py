# Glyphs on photographs, as two views for self-supervision and without augmentation for the probes.
# There is no flip, since mirrored letters are not letters.
view = [
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.6, 1.0)),
    dict(
        type='RandomGrayscale', prob=0.5, keep_channels=True, channel_weights=(0.114, 0.587, 0.2989)
    ),
    dict(type='Invert', prob=0.5),
    dict(type='Solarize', thr=128, prob=0.2),
    dict(
        type='Brightness',
        magnitude_range=(0.0, 0.5),
        magnitude_std='inf',
        random_negative_prob=0.5,
        prob=1.0,
    ),
]
train_pipeline = [
    dict(type='MultiView', num_views=2, transforms=[view]),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='Glyphs', split='train', num_images=6000, contrast=0.3, pipeline=train_pipeline
    ),
)

# The probes are trained on training images without augmentation, and evaluated on test images.
bank = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='Glyphs', split='train', num_images=6000, contrast=0.3, pipeline=test_pipeline
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='Glyphs', split='test', num_images=2000, contrast=0.3, pipeline=test_pipeline
    ),
)
val_cfg = dict(
    type='ProbeLoop',
    bank=bank,
    probes=[dict(type='KNNProbe', k=20), dict(type='LinearProbe')],
    on=['teacher', 'student'],
    layer='backbone',
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_cfg = val_cfg
test_evaluator = val_evaluator
