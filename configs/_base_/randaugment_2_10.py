# The strong view of FixMatch as kekmodel/FixMatch-pytorch has it, RandAugment(2, 10): two
# operations, each applied with probability 0.5 and a random strength, then a grey square of half
# the image's side.
uniform = dict(magnitude_level=10, total_level=10, magnitude_std='inf', prob=0.5)
factor = dict(**uniform, magnitude_range=(-0.95, -0.05), random_negative_prob=0.0)
signed = dict(**uniform, random_negative_prob=0.5)
operation = dict(
    type='RandomChoice',
    transforms=[
        [dict(type='AutoContrast', prob=0.5)],
        [dict(type='Brightness', **factor)],
        [dict(type='ColorTransform', **factor)],
        [dict(type='Contrast', **factor)],
        [dict(type='Equalize', prob=0.5)],
        [],
        [dict(type='Posterize', **uniform, magnitude_range=(4, 8))],
        [dict(type='Rotate', **signed, magnitude_range=(0, 30))],
        [dict(type='Sharpness', **factor)],
        [dict(type='Shear', **signed, magnitude_range=(0, 0.3), direction='horizontal')],
        [dict(type='Shear', **signed, magnitude_range=(0, 0.3), direction='vertical')],
        [dict(type='Solarize', **uniform, magnitude_range=(0, 256))],
        [dict(type='Translate', **signed, magnitude_range=(0, 0.3), direction='horizontal')],
        [dict(type='Translate', **signed, magnitude_range=(0, 0.3), direction='vertical')],
    ],
)
randaugment = [operation, operation, dict(type='Cutout', shape=16, pad_val=127, prob=1.0)]
