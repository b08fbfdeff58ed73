# Soft Teacher on BCCD (blood cells), 10 % of the images labelled, with an averaged teacher,
# momentum 0.02.
#
# Reproduces nothing published. BCCD as docs/howto/detection.md says; in minutes on one core:
#   python tools/train.py configs/softteacher/softteacher_tma_faster-rcnn-conv5_1xb8_bccd-10.py
_base_ = '../_base_/bccd.py'

custom_hooks = [
    dict(type='SETMAHook', keep_prob=0, momentum=0.02, begin_iter=_base_.burn_in.iters),
    _base_.burn_in,
]
