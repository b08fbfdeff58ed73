# SPDX-License-Identifier: Apache-2.0
"""Classifiers that learn from a few labelled and many unlabelled images.

All methods share one class and differ in its parts, which ``pseudo_labels`` has: which
pseudo-labels are used, how they are used, and the alignment of their distribution.
"""

from se_mm.models.semi_supervised.classifier import SemiSupervisedClassifier
from se_mm.models.semi_supervised.data_preprocessor import SemiSupervisedDataPreprocessor
from se_mm.models.semi_supervised.methods import FixMatch, MeanTeacher, PseudoLabel, SupervisedOnly
from se_mm.models.semi_supervised.pseudo_labels import (
    AcceptAll,
    Acceptance,
    ConfidenceThreshold,
    DistributionAlignment,
    HardTarget,
    SharpenedTarget,
    SoftTarget,
)

__all__ = [
    'AcceptAll',
    'Acceptance',
    'ConfidenceThreshold',
    'DistributionAlignment',
    'FixMatch',
    'HardTarget',
    'MeanTeacher',
    'PseudoLabel',
    'SemiSupervisedClassifier',
    'SemiSupervisedDataPreprocessor',
    'SharpenedTarget',
    'SoftTarget',
    'SupervisedOnly',
]
