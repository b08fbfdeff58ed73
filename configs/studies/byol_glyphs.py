# BYOL on glyphs on photographs: a small comparison of smoothings.
#
# Each training has 400 iterations of 32 images and takes half a minute on one core. Ten seeds of
# the smoothings, the ablations of keep_prob and granularity, and all matched TMAs take forty
# minutes on two cores:
#   python tools/compare.py configs/studies/byol_glyphs.py --work-dir work_dirs/byol_glyphs
configs = dict(byol='../byol/byol_tma_conv5_1xb128_glyphs.py')
matrix = [
    dict(smoothing='none'),
    dict(smoothing='tma', momentum=0.01),
    dict(smoothing='se', keep_prob=[0.9, 0.99]),
    dict(smoothing='sts', keep_prob=[0.1, 0.3, 0.5, 0.7, 0.9], momentum=0.01),
    dict(
        smoothing='sts', keep_prob=0.7, momentum=0.01, granularity=['layer', 'channel', 'element']
    ),
]
seeds = list(range(10))
metrics = ['teacher_linear/top1', 'teacher_knn/top1', 'student_linear/top1', 'student_knn/top1']
cfg_options = {
    'train_dataloader.batch_size': 32,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'train_dataloader.dataset.num_images': 4000,
    'val_cfg.bank.dataset.num_images': 4000,
    'train_cfg.max_iters': 400,
    'train_cfg.val_interval': 400,
    'param_scheduler.1.end': 400,
}
