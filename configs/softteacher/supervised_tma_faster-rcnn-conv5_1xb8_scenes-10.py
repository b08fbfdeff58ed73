# The detector of softteacher_tma_faster-rcnn-conv5_1xb8_scenes-10.py, trained on the labelled
# scenes only for the same number of iterations: the baseline for Soft Teacher.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/softteacher/supervised_tma_faster-rcnn-conv5_1xb8_scenes-10.py
_base_ = '../_base_/softteacher_small.py'

custom_hooks = [
    dict(type='SETMAHook', keep_prob=0, momentum=0.02),
    dict(type='BurnInHook', iters=_base_.max_iters),
]
