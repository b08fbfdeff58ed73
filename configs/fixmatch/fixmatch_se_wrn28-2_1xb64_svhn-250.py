# FixMatch with an SE teacher on SVHN with 250 labels.
#
# Reproduces FixMatch's published schedule, with an SE teacher as slow as its average in the mean.
#   bash tools/dist_train.sh configs/fixmatch/fixmatch_se_wrn28-2_1xb64_svhn-250.py 1
_base_ = '../_base_/fixmatch_svhn.py'

train_dataloader = dict(dataset=dict(split=dict(num_labels=250)))
custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.999, buffers='average_norms')]
