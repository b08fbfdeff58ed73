# FixMatch on CIFAR-10 with 40, 250 and 4,000 labels and its published schedule: the smoothings with
# their matched TMAs, on one or more GPUs. The paper's keep_prob for FixMatch is 0.5.
#
# Reproduces nothing published; not measured here. Each training is 2^20 iterations:
#   python tools/compare.py configs/studies/fixmatch_cifar10.py --work-dir work_dirs/cifar10
#   GPUS=1 GPUS_PER_NODE=1 python tools/compare.py configs/studies/fixmatch_cifar10.py \
#       --work-dir work_dirs/cifar10 --slurm PARTITION --jobs 32
configs = {
    '40-labels': '../fixmatch/fixmatch_tma_wrn28-2_1xb64_cifar10-40.py',
    '250-labels': '../fixmatch/fixmatch_tma_wrn28-2_1xb64_cifar10-250.py',
    '4000-labels': '../fixmatch/fixmatch_tma_wrn28-2_1xb64_cifar10-4000.py',
}
matrix = [
    dict(smoothing='none'),
    dict(smoothing='tma', momentum=0.001),
    dict(smoothing='se', keep_prob=[0.99, 0.999]),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.001),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.001, match_horizon=True),
]
seeds = list(range(10))
metrics = ['teacher/accuracy/top1', 'student/accuracy/top1']
