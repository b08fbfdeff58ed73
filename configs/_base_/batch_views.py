# Batched views of FixMatch for photographs of 32 x 32 pixels: the `views` of a data preprocessor.
_flip = dict(type='RandomHorizontalFlip')
_crop = dict(type='RandomCrop', size=32, padding=4, padding_mode='reflect')
# One operation of random magnitude, applied with probability 0.5.
_operation = dict(
    type='RandomApply',
    p=0.5,
    transforms=[
        dict(
            type='RandomChoice',
            transforms=[dict(type='RandAugment', num_ops=1, magnitude=m) for m in range(31)],
        )
    ],
)
_square = dict(type='RandomErasing', p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0), value=127)

weak_batch_view = [_flip, _crop]
strong_batch_view = [_flip, _crop, _operation, _operation, _square]
