# The strong view of FixMatch as in kekmodel/FixMatch-pytorch, RandAugment(2, 10): two operations,
# each applied with probability 0.5, then a grey square of half the image's side.
randaugment = [
    dict(type='FixMatchRandAugment', num_ops=2, prob=0.5),
    dict(type='Cutout', shape=16, pad_val=127, prob=1.0),
]
