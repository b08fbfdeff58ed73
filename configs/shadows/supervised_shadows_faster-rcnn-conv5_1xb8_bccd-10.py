# Twelve teachers beside one detector that learns from the labelled images of BCCD alone: TMA, SE
# and STS of one horizon, with batch-norm statistics that are the student's, averaged, those of the
# end of the burn-in, or recalibrated.
#
# Reproduces nothing published. BCCD as docs/howto/detection.md says; the teachers begin where the
# training is resumed, so first the burn-in of the others; in minutes on one core:
#   python tools/train.py configs/softteacher/softteacher_tma_faster-rcnn-conv5_1xb8_bccd-10.py
#   python tools/train.py configs/shadows/supervised_shadows_faster-rcnn-conv5_1xb8_bccd-10.py \
#       --resume work_dirs/softteacher_tma_faster-rcnn-conv5_1xb8_bccd-10/iter_200.pth
_base_ = '../_base_/bccd.py'

model = dict(semi_test_cfg=dict(predict_on='student'))
val_cfg = dict(type='ValLoop')

_teachers = dict()
for _buffers in ('copy', 'average', 'skip', 'recalibrate'):
    _teachers[f'tma-{_buffers}'] = dict(keep_prob=0, momentum=0.02, buffers=_buffers)
    _teachers[f'se-{_buffers}'] = dict(keep_prob=0.98, buffers=_buffers)
    _teachers[f'sts-{_buffers}'] = dict(
        keep_prob=0.5, momentum=0.02, match_horizon=True, buffers=_buffers
    )
custom_hooks = [
    dict(type='BurnInHook', iters=_base_.max_iters),
    dict(type='ShadowsHook', shadows=_teachers, recalibrate_batches=20),
]
