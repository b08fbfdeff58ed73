# Soft Teacher, Faster R-CNN, ResNet-50, 10 % of COCO labelled, with an SE teacher that has the same
# horizon as the recipe's average with momentum 0.001. 8 GPUs with 1 labelled and 4 unlabelled
# images each.
#
# Reproduces nothing published: mmdet's recipe, but SpatialEnsembleHook updates the teacher.
#
#   python tools/split_coco.py data/coco/annotations/instances_train2017.json --percent 10 --folds 1
#   bash tools/dist_train.sh configs/softteacher/softteacher_se_faster-rcnn-r50_8xb5_coco-10.py 8
_base_ = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.999)]
