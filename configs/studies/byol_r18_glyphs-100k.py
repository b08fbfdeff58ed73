# BYOL, ResNet-18 on 100,000 images of 52 letters at full contrast: the smoothings with their
# matched TMAs, and ablations of keep_prob and granularity, on one or more GPUs.
#
# Reproduces nothing published; not measured here. Each training is 39,062 iterations of 256 images:
#   python tools/compare.py configs/studies/byol_r18_glyphs-100k.py --work-dir work_dirs/byol_r18
#   GPUS=1 GPUS_PER_NODE=1 python tools/compare.py configs/studies/byol_r18_glyphs-100k.py \
#       --work-dir work_dirs/byol_r18 --slurm PARTITION --jobs 32
configs = dict(byol='../byol/byol_tma_r18_1xb256_glyphs-100k.py')
matrix = [
    dict(smoothing='none'),
    dict(smoothing='tma', momentum=0.01),
    dict(smoothing='se', keep_prob=[0.9, 0.97, 0.99, 0.997]),
    dict(smoothing='sts', keep_prob=[0.3, 0.5, 0.7, 0.9], momentum=0.01),
    dict(smoothing='sts', keep_prob=0.7, momentum=0.01, match_horizon=True),
    dict(
        smoothing='sts', keep_prob=0.7, momentum=0.01, granularity=['layer', 'channel', 'element']
    ),
]
seeds = list(range(10))
metrics = ['teacher_linear/top1', 'teacher_knn/top1', 'student_linear/top1', 'student_knn/top1']
