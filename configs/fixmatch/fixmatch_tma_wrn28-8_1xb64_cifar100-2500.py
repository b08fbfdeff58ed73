# FixMatch with a TMA teacher on CIFAR-100 with 2,500 labels.
#
# Reproduces FixMatch's published schedule, with the teacher's labels and not the student's.
#   bash tools/dist_train.sh configs/fixmatch/fixmatch_tma_wrn28-8_1xb64_cifar100-2500.py 1
_base_ = '../_base_/fixmatch_cifar100.py'

train_dataloader = dict(dataset=dict(split=dict(num_labels=2500)))
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.001, buffers='average_norms')]
