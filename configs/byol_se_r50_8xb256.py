# BYOL, ResNet-50, ImageNet, 200 epochs, with an SE teacher: picked units are copied from the
# student, and nothing is averaged. 8 GPUs with 256 images each.
#
# Reproduces nothing published: mmpretrain's BYOL recipe with half the batch size, and therefore
# half the learning rate, but SpatialEnsembleHook updates the teacher. keep_prob=0.99 gives the
# horizon that the recipe's average has at the start of training.
#
#   bash tools/dist_train.sh configs/byol_se_r50_8xb256.py 8
_base_ = 'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

# Without _delete_, MMEngine passes the inherited `_scope_` key to the collate function.
train_dataloader = dict(collate_fn=dict(_delete_=True, type='default_collate'))
optim_wrapper = dict(optimizer=dict(lr=2.4))
auto_scale_lr = dict(base_batch_size=2048)

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.99)]
