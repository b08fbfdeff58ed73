# BYOL with an STS teacher on a folder of your own unlabelled images, including subfolders.
#
# Reproduces nothing published: a starting point for your own images. They are cropped and resized
# to 32 x 32 pixels; docs/howto/images.md has a config for larger images and a GPU.
#
#   python tools/train.py configs/byol/byol_sts_conv5_1xb128_folder.py \
#       --cfg-options train_dataloader.dataset.data_root=FOLDER
_base_ = ['../_base_/byol_small.py', '../_base_/glyphs.py']

view = [
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomApply',
        transforms=[
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
        ],
        prob=0.8,
    ),
    dict(
        type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.2989)
    ),
]
train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        _delete_=True,
        type='ImageFolder',
        data_root='data/my_images',
        with_label=False,
        unreadable='skip',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='MultiView', num_views=2, transforms=[view]),
            dict(type='PackInputs'),
        ],
    ),
)

# The probes need labels, so there is no validation.
train_cfg = dict(val_interval=_base_.max_iters + 1)
val_cfg = None
val_dataloader = None
val_evaluator = None
test_cfg = None
test_dataloader = None
test_evaluator = None

custom_hooks = [dict(type='SETMAHook', keep_prob=0.7, momentum=0.01, match_horizon=True)]
