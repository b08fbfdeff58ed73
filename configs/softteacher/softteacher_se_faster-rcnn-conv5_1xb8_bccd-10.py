# Soft Teacher on BCCD (blood cells), 10 % of the images labelled, with an SE teacher, as fast as
# TMA of momentum 0.02.
#
# Reproduces nothing published. BCCD as docs/howto/detection.md says; in minutes on one core:
#   python tools/train.py configs/softteacher/softteacher_se_faster-rcnn-conv5_1xb8_bccd-10.py
_base_ = '../_base_/bccd.py'

custom_hooks = [
    dict(type='SpatialEnsembleHook', keep_prob=0.98, begin_iter=_base_.burn_in.iters),
    _base_.burn_in,
]
