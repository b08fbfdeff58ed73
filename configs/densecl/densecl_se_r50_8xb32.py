# DenseCL, ResNet-50, ImageNet, 200 epochs, with an SE teacher: picked units are copied from the
# student, and nothing is averaged.
#
# Reproduces nothing published: mmpretrain's recipe, but SpatialEnsembleHook updates the teacher. It
# has the same horizon as the recipe's average with momentum 0.001.
#
#   bash tools/dist_train.sh configs/densecl/densecl_se_r50_8xb32.py 8
_base_ = 'mmpretrain::densecl/densecl_resnet50_8xb32-coslr-200e_in1k.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

# Without _delete_, MMEngine passes the inherited `_scope_` key to the collate function.
train_dataloader = dict(collate_fn=dict(_delete_=True, type='default_collate'))

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.999)]
