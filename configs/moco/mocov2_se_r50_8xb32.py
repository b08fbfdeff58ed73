# MoCo v2, ResNet-50, ImageNet, 200 epochs, with an SE teacher: units of the student take the place
# of the teacher's, nothing is averaged.
#
# Reproduces nothing published: mmpretrain's recipe with the teacher's update changed by the
# last line. The teacher is as slow as the recipe's average, of momentum 0.001.
#
#   bash tools/dist_train.sh configs/moco/mocov2_se_r50_8xb32.py 8
_base_ = 'mmpretrain::mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py'
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)

# MMEngine hands the scope that it puts into inherited dicts to the collate function.
train_dataloader = dict(collate_fn=dict(_delete_=True, type='default_collate'))

custom_hooks = [dict(type='SpatialEnsembleHook', keep_prob=0.999)]
