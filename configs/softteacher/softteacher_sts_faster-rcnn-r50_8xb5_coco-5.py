# Soft Teacher, Faster R-CNN, ResNet-50, 5 % of COCO labelled, with an STS teacher. 8 GPUs with 1
# labelled and 4 unlabelled images each.
#
# Reproduces nothing published: mmdet's recipe, with its average of momentum 0.001 applied only to
# the picked units. The paper gives no keep_prob for detectors; 0.5 is its value for FixMatch.
#
#   python tools/split_coco.py data/coco/annotations/instances_train2017.json --percent 5 --folds 1
#   bash tools/dist_train.sh configs/softteacher/softteacher_sts_faster-rcnn-r50_8xb5_coco-5.py 8
_base_ = './softteacher_se_faster-rcnn-r50_8xb5_coco-5.py'

custom_hooks = [dict(type='SETMAHook', keep_prob=0.5)]
