# Soft Teacher on digits on photographs, 10 % of the scenes labelled, with an STS teacher. Same
# horizon as TMA with momentum 0.02.
#
# Reproduces nothing published. On two CPU cores, in minutes:
#   python tools/train.py configs/softteacher/softteacher_sts_faster-rcnn-conv5_1xb8_scenes-10.py
_base_ = '../_base_/softteacher_small.py'

custom_hooks = [
    dict(type='SETMAHook', keep_prob=0.5, momentum=0.02, match_horizon=True),
    _base_.burn_in,
]
