# FixMatch with a TMA teacher on SVHN with 250 labels.
#
# Reproduces FixMatch's published schedule, with the teacher's labels and not the student's.
#   bash tools/dist_train.sh configs/fixmatch/fixmatch_tma_wrn28-2_1xb64_svhn-250.py 1
_base_ = '../_base_/fixmatch_svhn.py'

train_dataloader = dict(dataset=dict(split=dict(num_labels=250)))
custom_hooks = [dict(type='SETMAHook', keep_prob=0.0, momentum=0.001, buffers='average_norms')]
