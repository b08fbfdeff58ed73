# Faster R-CNN, ResNet-50 FPN, COCO, 12 epochs, from a backbone pretrained with se_mm. 8 GPUs with 2
# images each.
#
# Reproduces nothing published: mmdet's recipe, with no frozen layers and synchronised batch norm,
# as is usual for self-supervised backbones.
#
#   python tools/publish_teacher.py work_dirs/byol_sts_r50_8xb32/epoch_200.pth backbone.pth \
#       --weights teacher --prefix backbone
#   bash tools/dist_train.sh configs/transfer/faster-rcnn_r50_8xb2_coco.py 8 --cfg-options \
#       model.backbone.init_cfg.checkpoint=backbone.pth
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=dict(norm_cfg=norm_cfg),
)
# Reports a wrong checkpoint instead of training from random weights.
custom_hooks = [dict(type='PretrainedCheckHook')]
