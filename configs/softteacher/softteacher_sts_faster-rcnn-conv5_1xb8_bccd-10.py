# Soft Teacher on BCCD (blood cells), 10 % of the images labelled, with an STS teacher, as fast as
# TMA of momentum 0.02.
#
# Reproduces nothing published. BCCD as docs/howto/detection.md says; in minutes on one core:
#   python tools/train.py configs/softteacher/softteacher_sts_faster-rcnn-conv5_1xb8_bccd-10.py
_base_ = '../_base_/bccd.py'

custom_hooks = [
    dict(
        type='SETMAHook',
        keep_prob=0.5,
        momentum=0.02,
        match_horizon=True,
        begin_iter=_base_.burn_in.iters,
    ),
    _base_.burn_in,
]
