# MoCo v2 on CIFAR-10: first the momentum of its average, swept until the best lies inside; then SE
# and STS of that horizon, and the paper's STS, which leaves the momentum and is twice as slow.
#
# CIFAR-10 as a folder of images for each class; each training is five minutes on one core:
#   python tools/compare.py configs/studies/moco_conv6_cifar10.py --work-dir work_dirs/moco
configs = dict(moco='../moco/mocov2_tma_conv6_1xb128_cifar10.py')
matrix = [
    dict(smoothing='none'),
    dict(smoothing='tma', momentum=[0.1, 0.03, 0.01, 0.003, 0.001]),
    dict(smoothing='se', keep_prob=0.99),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.01, match_horizon=True),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.01),
]
seeds = list(range(6))
metrics = ['student_knn/top1', 'student_linear/top1', 'teacher_knn/top1', 'teacher_linear/top1']
