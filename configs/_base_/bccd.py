# Soft Teacher with the small detector on BCCD: blood cells under the microscope, reduced to 128 x
# 96, one tenth of the training images labelled. The backbone and the neck have batch norm, since
# whose statistics the teacher has is what is compared.
_base_ = './softteacher_small.py'

load = dict(type='LoadImageFromFile')
annotate = dict(type='LoadAnnotations', with_bbox=True)
geometry = [
    dict(type='RandomResize', scale=(128, 96), ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
]
stain = dict(type='PhotoMetricDistortion')
coco = dict(
    type='CocoDataset',
    data_root='data/bccd/',
    data_prefix=dict(img='JPEGImages/'),
    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
)
train_sets = [
    dict(
        ann_file='semi_anns/train.1@10.json',
        pipeline=[
            load,
            annotate,
            *geometry,
            stain,
            dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
            _base_.labelled_pipeline[-1],
        ],
        **coco,
    ),
    dict(
        ann_file='semi_anns/train.1@10-unlabeled.json',
        pipeline=[
            load,
            dict(type='LoadEmptyAnnotations'),
            dict(
                type='MultiBranch',
                branch_field=_base_.branch_field,
                unsup_teacher=[*geometry, _base_.weak[-1]],
                unsup_student=[*geometry, stain, *_base_.strong[2:]],
            ),
        ],
        **coco,
    ),
]
evaluated = dict(
    _delete_=True,
    test_mode=True,
    pipeline=[
        load,
        annotate,
        dict(type='Resize', scale=(128, 96), keep_ratio=True),
        _base_.test_pipeline[-1],
    ],
    **coco,
)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(datasets=train_sets))
val_dataloader = dict(dataset=dict(ann_file='annotations/val.json', **evaluated))
test_dataloader = dict(dataset=dict(ann_file='annotations/test.json', **evaluated))
del load, annotate, geometry, stain, coco, train_sets, evaluated

model = dict(
    detector=dict(
        backbone=dict(norm_groups=None),
        neck=dict(norm_cfg=dict(_delete_=True, type='BN')),
        roi_head=dict(bbox_head=dict(num_classes=3)),
        test_cfg=dict(rcnn=dict(max_per_img=50)),
    )
)

max_iters = 400
burn_in = dict(iters=max_iters // 2)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50)]
default_hooks = dict(checkpoint=dict(interval=burn_in['iters'], max_keep_ckpts=2))
