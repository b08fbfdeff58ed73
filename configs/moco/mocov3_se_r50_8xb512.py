# MoCo v3, ResNet-50, ImageNet, 100 epochs, with an SE teacher: picked units are copied from the
# student, and nothing is averaged.
#
# Reproduces nothing published: mmpretrain's recipe, but SpatialEnsembleHook updates the teacher.
# keep_prob=0.99 gives the horizon that the recipe's average has at the start of training.
#
#   bash tools/dist_train.sh configs/moco/mocov3_se_r50_8xb512.py 8
_base_ = 'mmpretrain::mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

# Without _delete_, MMEngine passes the inherited `_scope_` key to the collate function.
train_dataloader = dict(collate_fn=dict(_delete_=True, type='default_collate'))

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.99)]
