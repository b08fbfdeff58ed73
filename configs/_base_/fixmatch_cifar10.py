# CIFAR-10 with few labels.
_base_ = './fixmatch_wrn.py'

model = dict(
    # The CIFAR files are already in RGB order.
    data_preprocessor=dict(
        mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=False
    )
)
train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='CIFAR10', data_root='data/cifar10', split='train'),
        split=dict(seed=0),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='CIFAR10', data_root='data/cifar10', split='test', pipeline=_base_.test_pipeline
    )
)
test_dataloader = val_dataloader
