# Digits on photographs, with one tenth of the scenes labelled. There is no flip, since mirrored
# digits are not digits.
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
default_scope = 'mmdet'

branch_field = ['sup', 'unsup_teacher', 'unsup_student']
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'homography_matrix')
resize = dict(type='RandomResize', scale=(96, 96), ratio_range=(0.8, 1.2), keep_ratio=True)
colour = [
    dict(type='PhotoMetricDistortion', contrast_range=(0.6, 1.4), hue_delta=90),
]
labelled_pipeline = [
    dict(type='LoadAnnotations', with_bbox=True),
    resize,
    *colour,
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='MultiBranch', branch_field=branch_field, sup=dict(type='PackDetInputs')),
]
weak = [resize, dict(type='PackDetInputs', meta_keys=meta_keys)]
strong = [
    resize,
    *colour,
    dict(
        type='RandAugment',
        aug_space=[
            [dict(type='Rotate', max_mag=15.0)],
            [dict(type='ShearX', max_mag=15.0)],
            [dict(type='ShearY', max_mag=15.0)],
            [dict(type='TranslateX', max_mag=0.1)],
            [dict(type='TranslateY', max_mag=0.1)],
        ],
        aug_num=1,
    ),
    dict(type='RandomErasing', n_patches=(1, 3), ratio=(0, 0.15)),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='PackDetInputs', meta_keys=meta_keys),
]
unlabelled_pipeline = [
    dict(type='LoadEmptyAnnotations'),
    dict(type='MultiBranch', branch_field=branch_field, unsup_teacher=weak, unsup_student=strong),
]
test_pipeline = [
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]

labelled = dict(
    type='DigitScenes', subset='labelled', percent=10, fold=1, pipeline=labelled_pipeline
)
unlabelled = dict(
    type='DigitScenes', subset='unlabelled', percent=10, fold=1, pipeline=unlabelled_pipeline
)

val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='DigitScenes', split='val', num_images=100, test_mode=True, pipeline=test_pipeline
    ),
)
val_evaluator = dict(type='CocoMetric', metric='bbox')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
