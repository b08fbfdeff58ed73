# MoCo v3, ViT-S/16, ImageNet, 300 epochs, with an SE teacher: picked units are copied from the
# student, and nothing is averaged.
#
# Reproduces nothing published: mmpretrain's recipe, but SpatialEnsembleHook updates the teacher.
# keep_prob=0.99 gives the horizon that the recipe's average has at the start of training.
#
#   bash tools/dist_train.sh configs/moco/mocov3_se_vit-small-p16_16xb256.py 16
_base_ = 'mmpretrain::mocov3/mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

# Without _delete_, MMEngine passes the inherited `_scope_` key to the collate function.
train_dataloader = dict(collate_fn=dict(_delete_=True, type='default_collate'))

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.99)]
