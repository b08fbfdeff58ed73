# SPDX-License-Identifier: Apache-2.0
"""Published methods, each a combination of parts of the semi-supervised classifier."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS

from se_mm.models.semi_supervised.classifier import SemiSupervisedClassifier


@MODELS.register_module()
class FixMatch(SemiSupervisedClassifier):
    """FixMatch: confident predictions on a weak view are the labels of a strong view.

    Source: Sohn et al., NeurIPS 2020, where the student makes the labels. Here the teacher does, as
    in EMAN (Cai et al., CVPR 2021), so that the teacher takes part in the training; set
    ``labeller='student'`` for the original. Batches have two views of an unlabelled image, weak and
    strong.

    Args:
        classifier: Config of any image classifier of mmpretrain.
        threshold: Minimum probability of an accepted pseudo-label, in (0, 1].
        **options: Options of :class:`SemiSupervisedClassifier`.
    """

    def __init__(self, classifier: dict, threshold: float = 0.95, **options: Any) -> None:
        options.setdefault('accept', dict(type='ConfidenceThreshold', threshold=threshold))
        super().__init__(classifier, **options)


@MODELS.register_module()
class PseudoLabel(FixMatch):
    """Pseudo-label: the student learns its own confident predictions on a weak view.

    Source: Lee, ICML workshops 2013, with a threshold as in later comparisons. Batches have one
    weak view of an unlabelled image. Options are those of :class:`FixMatch`, by default
    ``labeller='student'`` and ``ramp_up=0.4``.
    """

    def __init__(self, classifier: dict, **options: Any) -> None:
        super().__init__(classifier, **{'labeller': 'student', 'ramp_up': 0.4, **options})


@MODELS.register_module()
class MeanTeacher(SemiSupervisedClassifier):
    """Mean Teacher: the student matches the teacher's probabilities on another weak view.

    Source: Tarvainen and Valpola, NeurIPS 2017, with their mean squared error. Batches have two
    weak views of an unlabelled image. Options are those of :class:`SemiSupervisedClassifier`, by
    default ``unlabelled_weight=50`` and ``ramp_up=0.4``.
    """

    def __init__(self, classifier: dict, **options: Any) -> None:
        weights = dict(unlabelled_weight=50.0, ramp_up=0.4)
        parts = dict(accept=dict(type='AcceptAll'), target=dict(type='SoftTarget'))
        super().__init__(classifier, **{'consistency': 'mse', **weights, **parts, **options})


@MODELS.register_module()
class SupervisedOnly(SemiSupervisedClassifier):
    """Baseline that trains on the labelled images only: ``labeller=None``."""

    def __init__(self, classifier: dict, **options: Any) -> None:
        super().__init__(classifier, labeller=None, **options)
