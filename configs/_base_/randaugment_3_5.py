# The strong view of FixMatch as in TorchSSL and USB, RandAugment(3, 5): three operations, then a
# grey square of up to half the image's side. To use it, replace randaugment_2_10.py in `_base_`
# with this file.
randaugment = [
    dict(type='FixMatchRandAugment', num_ops=3, prob=1.0),
    dict(
        type='Cutout',
        magnitude_level=10,
        total_level=10,
        magnitude_std='inf',
        magnitude_range=(0, 16),
        pad_val=(125, 123, 114),
        prob=1.0,
    ),
]
