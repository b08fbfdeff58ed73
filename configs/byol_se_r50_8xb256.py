# BYOL, ResNet-50, ImageNet, 200 epochs, with an SE teacher: units of the student take the place of
# the teacher's, nothing is averaged. 8 GPUs with 256 images each.
#
# Reproduces nothing published: mmpretrain's BYOL recipe at half its batch (and so half its learning
# rate), with the teacher's update changed by the last line. With keep_prob=0.99 the teacher is as
# slow as the recipe's average was at its start.
#
#   bash tools/dist_train.sh configs/byol_se_r50_8xb256.py 8
_base_ = 'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

# MMEngine hands the scope that it puts into inherited dicts to the collate function.
train_dataloader = dict(collate_fn=dict(_delete_=True, type='default_collate'))
optim_wrapper = dict(optimizer=dict(lr=2.4))
auto_scale_lr = dict(base_batch_size=2048)

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.99)]
