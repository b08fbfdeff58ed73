# SVHN with few labels.
_base_ = './fixmatch_wrn.py'

model = dict(
    data_preprocessor=dict(
        mean=[111.609, 113.161, 120.565], std=[50.498, 51.259, 50.245], to_rgb=True
    )
)
# There is no flip, since mirrored digits are not digits.
weak = [dict(type='ReflectPad', padding=4), dict(type='RandomCrop', crop_size=32)]
unlabelled_pipeline = [
    dict(type='MultiView', num_views=[1, 1], transforms=[weak, [*weak, *_base_.randaugment]]),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    dataset=dict(
        labelled_pipeline=[*weak, dict(type='PackInputs')],
        unlabelled_pipeline=unlabelled_pipeline,
        labelled=dict(type='SVHN', data_root='data/svhn', split='train'),
        split=dict(seed=0),
    )
)
val_dataloader = dict(
    dataset=dict(type='SVHN', data_root='data/svhn', split='test', pipeline=_base_.test_pipeline)
)
test_dataloader = val_dataloader
