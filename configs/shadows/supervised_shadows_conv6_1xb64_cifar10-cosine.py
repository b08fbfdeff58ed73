# Thirty teachers beside one supervised student on CIFAR-10, as in
# supervised_shadows_conv6_1xb64_cifar10.py, with a learning rate that falls to zero: what is left
# for an average to gain where the schedule averages too.
#
# Reproduces nothing published. Five minutes on one core:
#   python tools/train.py configs/shadows/supervised_shadows_conv6_1xb64_cifar10-cosine.py
_base_ = './supervised_shadows_conv6_1xb64_cifar10.py'

param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=False, T_max=_base_.max_iters, eta_min=0.0)
]
