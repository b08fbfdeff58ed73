# FixMatch with an STS teacher on CIFAR-10 with 40 labels, for a GPU that dataloader workers cannot
# keep busy: bfloat16, channels last, and batched views on the GPU.
#
# Reproduces the schedule of fixmatch_sts_wrn28-2_1xb64_cifar10-40.py. Its views differ a little:
# the images of each of the 8 groups share their random numbers, and the grey square lies completely
# inside the image.
#   bash tools/dist_train.sh configs/fixmatch/fixmatch_sts_wrn28-2_1xb64-amp_cifar10-40.py 1
_base_ = ['./fixmatch_sts_wrn28-2_1xb64_cifar10-40.py', '../_base_/batch_views.py']

model = dict(
    data_preprocessor=dict(views=[_base_.weak_batch_view, _base_.strong_batch_view], groups=8)
)
train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        labelled_pipeline=[dict(type='PackInputs')],
        unlabelled_pipeline=[
            dict(type='MultiView', num_views=[1], transforms=[[]]),
            dict(type='PackInputs'),
        ],
    ),
)
optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')
env_cfg = dict(cudnn_benchmark=True)
custom_hooks = [
    dict(type='SETMAHook', keep_prob=0.5, momentum=0.001),
    dict(type='ChannelsLastHook'),
]
