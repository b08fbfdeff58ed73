# The strong view of FixMatch as TorchSSL and USB have it, RandAugment(3, 5): three operations of
# random strengths, then a grey square of up to half the image's side.
uniform = dict(magnitude_level=10, total_level=10, magnitude_std='inf', prob=1.0)
factor = dict(**uniform, magnitude_range=(-0.95, -0.05), random_negative_prob=0.0)
signed = dict(**uniform, random_negative_prob=0.5)
operation = dict(
    type='RandomChoice',
    transforms=[
        [dict(type='AutoContrast', prob=1.0)],
        [dict(type='Brightness', **factor)],
        [dict(type='ColorTransform', **factor)],
        [dict(type='Contrast', **factor)],
        [dict(type='Equalize', prob=1.0)],
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
randaugment = [
    *(operation, operation, operation),
    dict(type='Cutout', **uniform, magnitude_range=(0, 16), pad_val=(125, 123, 114)),
]
