# CIFAR-100 with few labels.
_base_ = './fixmatch_wrn.py'

model = dict(
    classifier=dict(backbone=dict(width=8), head=dict(num_classes=100, in_channels=512)),
    # The CIFAR files are already in RGB order.
    data_preprocessor=dict(
        mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418], to_rgb=False
    ),
)
# The published value for CIFAR-100 is twice that of the other datasets.
optim_wrapper = dict(optimizer=dict(weight_decay=1e-3))
train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='CIFAR100', data_root='data/cifar100', split='train'),
        split=dict(seed=0),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='CIFAR100', data_root='data/cifar100', split='test', pipeline=_base_.test_pipeline
    )
)
test_dataloader = val_dataloader
