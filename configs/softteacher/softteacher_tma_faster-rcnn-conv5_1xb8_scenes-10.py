# Soft Teacher on digits on photographs, 10 % of the scenes labelled, with a TMA teacher, momentum
# 0.02.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/softteacher/softteacher_tma_faster-rcnn-conv5_1xb8_scenes-10.py
_base_ = '../_base_/softteacher_small.py'

custom_hooks = [
    dict(type='SETMAHook', keep_prob=0, momentum=0.02),
    _base_.burn_in,
]
