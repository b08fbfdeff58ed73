# SPDX-License-Identifier: Apache-2.0
"""Classifiers that learn from a few labelled and many unlabelled images.

All methods share one class and differ in its parts. Each part has its own file: ``acceptance``
(which pseudo-labels are used), ``targets`` (how they are used) and ``alignment`` (of their
distribution).
"""

from se_mm.models.semi_supervised.acceptance import AcceptAll, Acceptance, ConfidenceThreshold
from se_mm.models.semi_supervised.alignment import DistributionAlignment
from se_mm.models.semi_supervised.classifier import SemiSupervisedClassifier
from se_mm.models.semi_supervised.data_preprocessor import SemiSupervisedDataPreprocessor
from se_mm.models.semi_supervised.methods import FixMatch, MeanTeacher, PseudoLabel, SupervisedOnly
from se_mm.models.semi_supervised.targets import HardTarget, SharpenedTarget, SoftTarget

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
