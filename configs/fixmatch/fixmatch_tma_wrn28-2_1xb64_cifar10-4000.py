# FixMatch with a TMA teacher on CIFAR-10 with 4,000 labels.
#
# Reproduces FixMatch's published schedule, with the teacher's labels and not the student's.
#   bash tools/dist_train.sh configs/fixmatch/fixmatch_tma_wrn28-2_1xb64_cifar10-4000.py 1
_base_ = '../_base_/fixmatch_cifar10.py'

train_dataloader = dict(dataset=dict(split=dict(num_labels=4000)))
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.001, buffers='average_norms')]
