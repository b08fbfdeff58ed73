# FixMatch on CIFAR-10 with 1,000 labels: smoothings with the same horizon, and different batch-norm
# statistics of the teacher when it labels and is evaluated.
#
# Needs CIFAR-10 as images, in a folder per class. Each training takes two and a half minutes on one
# core; six seeds of run and split take an hour and a half on two cores:
#   python tools/compare.py configs/studies/fixmatch_conv6_cifar10.py --work-dir work_dirs/cifar10
configs = {'1000-labels': '../fixmatch/fixmatch_tma_conv6_1xb32_cifar10-1000.py'}
buffers = ['copy', 'average']
matrix = [
    dict(smoothing='tma', momentum=0.01, buffers=buffers),
    dict(smoothing='se', keep_prob=0.99, buffers=buffers),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.01, match_horizon=True, buffers=buffers),
]
del buffers
seeds = list(range(6))
metrics = ['teacher/accuracy/top1', 'student/accuracy/top1']
