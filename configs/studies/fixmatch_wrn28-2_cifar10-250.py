# FixMatch on CIFAR-10 with 250 labels, a WRN-28-2 and 2,000 iterations: the smoothings with the
# same horizon, in minutes on one large GPU.
#
# Reproduces nothing published; not measured here. Needs CIFAR-10 as images, in a folder per class.
# Sized for twelve minutes on an H100, with four runs at a time to keep it busy:
#   python tools/compare.py configs/studies/fixmatch_wrn28-2_cifar10-250.py \
#       --work-dir work_dirs/fixmatch-250 --jobs 4
configs = {'250-labels': '../fixmatch/fixmatch_tma_wrn28-2_1xb64-short_cifar10-250.py'}
matrix = [
    dict(smoothing='tma', momentum=0.01),
    dict(smoothing='se', keep_prob=0.99),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.01, match_horizon=True),
]
seeds = list(range(6))
metrics = ['teacher/accuracy/top1', 'student/accuracy/top1']
