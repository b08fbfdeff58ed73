# SPDX-License-Identifier: Apache-2.0
"""Classifiers that learn from a few labelled images and many unlabelled ones.

One class trains them all; a method is a choice of its parts. What a part can be is one file:
``acceptance`` (which pseudo-labels count), ``targets`` (how they are used), ``alignment``
(of their distribution).
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
