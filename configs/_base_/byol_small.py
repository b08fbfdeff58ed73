# BYOL small enough for two CPU cores: images of 32 x 32, five convolutions, batches of 128, 600
# iterations. A config adds the data (`train_dataset`, views in `pipeline`) and the hook.
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

norm_cfg = dict(type='BN1d')
model = dict(
    type='BYOL',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[127.5] * 3, std=[63.75] * 3, to_rgb=True
    ),
    backbone=dict(type='ConvNet', channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2, 2)),
    neck=dict(
        type='NonLinearNeck',
        in_channels=256,
        hid_channels=256,
        out_channels=64,
        num_layers=2,
        with_bias=False,
        with_last_bn=False,
        with_avg_pool=True,
        norm_cfg=norm_cfg,
    ),
    head=dict(
        type='LatentPredictHead',
        predictor=dict(
            type='NonLinearNeck',
            in_channels=64,
            hid_channels=256,
            out_channels=64,
            num_layers=2,
            with_bias=False,
            with_last_bn=False,
            with_avg_pool=False,
            norm_cfg=norm_cfg,
        ),
        loss=dict(type='CosineSimilarityLoss'),
    ),
)

max_iters = 600
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-3, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=40, end=max_iters, eta_min=0.0),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=200, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
