# FixMatch on glyphs on photographs with 2, 4 and 10 labels for each of 20 letters: a small
# comparison.
#
# Each training has 300 iterations of 16 labelled and 48 unlabelled images and takes half a minute
# on one core. Ten seeds of run and split take forty minutes on two cores:
#   python tools/compare.py configs/studies/fixmatch_glyphs.py --work-dir work_dirs/fixmatch_glyphs
configs = {
    '2-labels': '../fixmatch/fixmatch_tma_conv4_1xb32_glyphs-2.py',
    '4-labels': '../fixmatch/fixmatch_tma_conv4_1xb32_glyphs-4.py',
    '10-labels': '../fixmatch/fixmatch_tma_conv4_1xb32_glyphs-10.py',
}
matrix = [
    dict(smoothing='none'),
    dict(smoothing='tma', momentum=0.05),
    dict(smoothing='se', keep_prob=0.95),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.05),
]
seeds = list(range(10))
metrics = ['teacher/accuracy/top1', 'student/accuracy/top1']
cfg_options = {
    'model.threshold': 0.7,
    'optim_wrapper.optimizer.lr': 0.06,
    'train_dataloader.batch_size': 16,
    'train_dataloader.batch_sampler.mu': 3,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'train_cfg.max_iters': 300,
    'train_cfg.val_interval': 300,
    'param_scheduler.0.T_max': 300 * 16 / 7,
    'param_scheduler.0.end': 300,
}
