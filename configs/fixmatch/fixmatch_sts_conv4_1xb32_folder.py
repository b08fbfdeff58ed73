# FixMatch with an STS teacher on your own images: labelled and test images in one subfolder per
# class, unlabelled images in one folder.
#
# Reproduces nothing published: a starting point for your own images, which are resized to 32 x 32
# pixels. With a GPU, use larger images, and mmpretrain's ResNet-50 instead of this backbone and
# neck.
#
#   python tools/train.py configs/fixmatch/fixmatch_sts_conv4_1xb32_folder.py --cfg-options \
#       model.classifier.head.num_classes=3 \
#       train_dataloader.dataset.labelled.data_root=data/my_images/labelled \
#       train_dataloader.dataset.unlabelled.data_root=data/my_images/unlabelled \
#       val_dataloader.dataset.data_root=data/my_images/test \
#       test_dataloader.dataset.data_root=data/my_images/test
_base_ = '../_base_/fixmatch_small.py'

# 'skip' logs and leaves out images that cannot be read; 'error' ends the run instead.
unreadable = 'skip'
load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32))]
weak = [
    dict(type='RandomHorizontalFlip'),
    dict(type='RandomCrop', size=32, padding=4, padding_mode='reflect'),
]
strong = [
    *weak,
    dict(type='RandAugment', num_ops=2, magnitude=15),
    dict(type='RandomErasing', p=1.0, scale=(0.1, 0.25), ratio=(1.0, 1.0), value=127),
]
model = dict(
    classifier=dict(head=dict(num_classes=3)), data_preprocessor=dict(views=[weak, strong])
)
train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        labelled=dict(type='ImageFolder', data_root='data/my_images/labelled'),
        # Instead of subfolders, a CSV file with the columns image and label:
        # labelled=dict(type='CSVDataset', data_root='data/my_images', ann_file='labels.csv'),
        unlabelled=dict(
            type='ImageFolder', data_root='data/my_images/unlabelled', with_label=False
        ),
        labelled_pipeline=[*load, dict(type='PackInputs')],
        unlabelled_pipeline=[
            *load,
            dict(type='MultiView', num_views=[1], transforms=[[]]),
            dict(type='PackInputs'),
        ],
        unreadable=unreadable,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='ImageFolder',
        data_root='data/my_images/test',
        unreadable=unreadable,
        pipeline=[*load, dict(type='PackInputs')],
    )
)
test_dataloader = val_dataloader
# There is no top-5 accuracy with three classes.
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

custom_hooks = [dict(type='SETMAHook', keep_prob=0.5, momentum=0.05, match_horizon=True)]
