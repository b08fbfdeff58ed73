# SPDX-License-Identifier: Apache-2.0
"""Data sets: built-in ones, users' own images, and combined labelled and unlabelled images.

An invalid option, or data that do not fit it, is an OptionError when the data set is built.
"""

from se_mm.datasets.collate import collate_views
from se_mm.datasets.csv_dataset import CSVDataset
from se_mm.datasets.detection_checks import check_detection_classes
from se_mm.datasets.embedded import Digits, DigitScenes, Glyphs
from se_mm.datasets.image_folder import ImageFolder
from se_mm.datasets.label_split import LabelSplit, draw_split
from se_mm.datasets.multi_source_batch_sampler import MultiSourceBatchSampler
from se_mm.datasets.semi_supervised_dataset import SemiSupervisedDataset
from se_mm.datasets.torchvision_images import STL10, SVHN
from se_mm.datasets.transforms import FixMatchRandAugment, ReflectPad

__all__ = [
    'STL10',
    'SVHN',
    'CSVDataset',
    'DigitScenes',
    'Digits',
    'FixMatchRandAugment',
    'Glyphs',
    'ImageFolder',
    'LabelSplit',
    'MultiSourceBatchSampler',
    'ReflectPad',
    'SemiSupervisedDataset',
    'check_detection_classes',
    'collate_views',
    'draw_split',
]
