# CAE, BEiT-B/16, ImageNet, 300 epochs, with an SE teacher. 8 GPUs with 256 images each.
#
# Reproduces nothing published: in mmpretrain's recipe, the teacher equals the student
# (base_momentum is 0). Here it lags the student by one update on average.
#
#   bash tools/dist_train.sh configs/cae/cae_se_beit-base-p16_8xb256.py 8
_base_ = 'mmpretrain::cae/cae_beit-base-p16_8xb256-amp-coslr-300e_in1k.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

# Without _delete_, MMEngine passes the inherited `_scope_` key to the collate function.
train_dataloader = dict(collate_fn=dict(_delete_=True, type='default_collate'))

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.5)]
