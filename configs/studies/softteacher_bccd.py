# Soft Teacher on BCCD with 10 % of the images labelled: smoothings of one horizon, by the
# batch-norm statistics of the teacher, on the test images.
#
# BCCD as docs/howto/detection.md says, with six folds. Each training is three minutes on one core:
#   python tools/compare.py configs/studies/softteacher_bccd.py --work-dir work_dirs/bccd
configs = {'10-percent': '../softteacher/softteacher_tma_faster-rcnn-conv5_1xb8_bccd-10.py'}
buffers = ['copy', 'average', 'skip', 'recalibrate']
matrix = [
    dict(smoothing='tma', momentum=0.02, buffers=buffers),
    dict(smoothing='se', keep_prob=0.98, buffers=buffers),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.02, match_horizon=True, buffers=buffers),
]
del buffers
seeds = list(range(6))
metrics = ['teacher/coco/bbox_mAP_50', 'student/coco/bbox_mAP_50']
cfg_options = {
    'val_dataloader.dataset.ann_file': 'annotations/test.json',
    'custom_hooks.0.recalibrate_batches': 20,
}
