# The detector of softteacher_tma_faster-rcnn-conv5_1xb8_bccd-10.py on the labelled images alone, as
# many iterations: what Soft Teacher is to be compared with.
#
# Reproduces nothing published. BCCD as docs/howto/detection.md says; in minutes on one core:
#   python tools/train.py configs/softteacher/supervised_tma_faster-rcnn-conv5_1xb8_bccd-10.py
_base_ = '../_base_/bccd.py'

custom_hooks = [
    dict(type='SETMAHook', keep_prob=0, momentum=0.02, begin_iter=_base_.burn_in.iters),
    dict(type='BurnInHook', iters=_base_.max_iters),
]
