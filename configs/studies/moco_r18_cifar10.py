# MoCo v2 with a ResNet-18 on CIFAR-10, 2,000 iterations of 256 images: the smoothings with the same
# horizon, in minutes on one large GPU.
#
# Reproduces nothing published; not measured here. Needs CIFAR-10 as images, in a folder per class.
# Sized for twelve minutes on an H100, with four runs at a time to keep it busy:
#   python tools/compare.py configs/studies/moco_r18_cifar10.py \
#       --work-dir work_dirs/moco-r18 --jobs 4
configs = dict(moco='../moco/mocov2_tma_r18_1xb256-amp_cifar10.py')
matrix = [
    dict(smoothing='tma', momentum=0.01),
    dict(smoothing='se', keep_prob=0.99),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.01, match_horizon=True),
]
seeds = list(range(6))
metrics = ['student_knn/top1', 'student_linear/top1', 'teacher_knn/top1', 'teacher_linear/top1']
