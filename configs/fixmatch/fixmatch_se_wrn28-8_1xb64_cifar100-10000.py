# FixMatch with an SE teacher on CIFAR-100 with 10,000 labels.
#
# Reproduces FixMatch's published schedule, with an SE teacher as slow as its average in the mean.
#   bash tools/dist_train.sh configs/fixmatch/fixmatch_se_wrn28-8_1xb64_cifar100-10000.py 1
_base_ = '../_base_/fixmatch_cifar100.py'

train_dataloader = dict(dataset=dict(split=dict(num_labels=10000)))
custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.999, buffers='average_norms')]
