# Faster R-CNN on digits on photographs, 10 % of the scenes labelled, from a backbone
# pretrained on letters.
#
# Reproduces nothing published. On two CPU cores, in minutes, with a checkpoint of
# configs/byol/byol_sts_conv5_1xb128_glyphs.py:
#   python tools/publish_teacher.py work_dirs/byol_sts_conv5_1xb128_glyphs/iter_600.pth \
#       backbone.pth --weights teacher --prefix backbone
#   python tools/train.py configs/transfer/faster-rcnn_conv5_1xb4_scenes-10.py --cfg-options \
#       model.backbone.init_cfg.checkpoint=backbone.pth
_base_ = '../_base_/softteacher_small.py'

detector = _base_.detector
# As in pretraining, the backbone has batch norm (norm_groups=None).
detector.backbone.update(
    norm_groups=None,
    frozen_stages=1,
    init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
)
model = dict(_delete_=True, **detector)
train_dataloader = dict(
    _delete_=True,
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        type='DigitScenes',
        subset='labelled',
        percent=10,
        fold=1,
        pipeline=[*_base_.labelled_pipeline[:-1], dict(type='PackDetInputs')],
    ),
)
val_cfg = dict(type='ValLoop')
# Reports a wrong checkpoint instead of training from random weights.
custom_hooks = [dict(type='PretrainedCheckHook')]
