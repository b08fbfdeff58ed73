# FixMatch as published, for photographs of 32 x 32 pixels. A config adds the data and the hook that
# updates the teacher.
_base_ = ['./fixmatch.py', './randaugment_2_10.py']

model = dict(
    type='FixMatch',
    threshold=0.95,
    unlabelled_weight=1.0,
    labeller='teacher',
    classifier=dict(
        type='ImageClassifier',
        backbone=dict(type='WideResNet', depth=28, width=2),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=128,
            init_cfg=dict(type='Xavier', layer='Linear', distribution='normal'),
        ),
    ),
)

weak = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ReflectPad', padding=4),
    dict(type='RandomCrop', crop_size=32),
]
strong = [*weak, *_base_.randaugment]
train_dataloader = dict(
    dataset=dict(
        labelled_pipeline=[*weak, dict(type='PackInputs')],
        unlabelled_pipeline=[
            dict(type='MultiView', num_views=[1, 1], transforms=[weak, strong]),
            dict(type='PackInputs'),
        ],
    )
)
auto_scale_lr = dict(enable=False, base_batch_size=64)
