# A ResNet-18 for images of 32 x 32 pixels.
resnet18 = dict(type='ResNet_CIFAR', depth=18, num_stages=4, out_indices=(3,), style='pytorch')
