# SPDX-License-Identifier: Apache-2.0
"""The published methods: each is a choice of a semi-supervised classifier's parts."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.registry import MODELS

from se_mm.models.semi_supervised.classifier import SemiSupervisedClassifier


@MODELS.register_module()
class FixMatch(SemiSupervisedClassifier):
    """FixMatch: confident predictions of a weak view are the labels of a strong view.

    Source: Sohn et al., NeurIPS 2020. There the student labels; here the teacher does, as in EMAN
    (Cai et al., CVPR 2021), unless ``labeller='student'``: only so does the teacher take part in
    the training. Batches have two views of an unlabelled image, weak and strong.

    Args:
        classifier: Config of any image classifier of mmpretrain.
        threshold: Smallest probability of an accepted pseudo-label, in (0, 1].
        **options: Those of :class:`SemiSupervisedClassifier`.
    """

    def __init__(self, classifier: dict, threshold: float = 0.95, **options: Any) -> None:
        options.setdefault('accept', dict(type='ConfidenceThreshold', threshold=threshold))
        super().__init__(classifier, **options)


@MODELS.register_module()
class MeanTeacher(SemiSupervisedClassifier):
    """Mean Teacher: the student's probabilities of one weak view follow the teacher's of another.

    Source: Tarvainen and Valpola, NeurIPS 2017, with their mean squared error. Batches have two
    weak views of an unlabelled image.

    Args:
        classifier: Config of any image classifier of mmpretrain.
        unlabelled_weight: Weight of the unlabelled images' loss.
        ramp_up: Share of the run in which it rises.
        **options: Those of :class:`SemiSupervisedClassifier`.
    """

    def __init__(
        self,
        classifier: dict,
        unlabelled_weight: float = 50.0,
        ramp_up: float = 0.4,
        **options: Any,
    ) -> None:
        parts = dict(
            accept=dict(type='AcceptAll'), target=dict(type='SoftTarget'), consistency='mse'
        )
        super().__init__(
            classifier,
            unlabelled_weight=unlabelled_weight,
            ramp_up=ramp_up,
            **{**parts, **options},
        )


@MODELS.register_module()
class PseudoLabel(SemiSupervisedClassifier):
    """Pseudo-label: the student learns its own confident predictions of a weak view.

    Source: Lee, ICML workshops 2013, with a threshold as in later comparisons. Batches have one
    weak view of an unlabelled image.

    Args:
        classifier: Config of any image classifier of mmpretrain.
        threshold: Smallest probability of an accepted pseudo-label, in (0, 1].
        labeller: ``'student'`` or ``'teacher'``.
        ramp_up: Share of the run in which the weight of the unlabelled images' loss rises.
        **options: Those of :class:`SemiSupervisedClassifier`.
    """

    def __init__(
        self,
        classifier: dict,
        threshold: float = 0.95,
        labeller: str = 'student',
        ramp_up: float = 0.4,
        **options: Any,
    ) -> None:
        options.setdefault('accept', dict(type='ConfidenceThreshold', threshold=threshold))
        super().__init__(classifier, labeller=labeller, ramp_up=ramp_up, **options)


@MODELS.register_module()
class SupervisedOnly(SemiSupervisedClassifier):
    """The labelled images alone: what the unlabelled ones are measured against.

    Args:
        classifier: Config of any image classifier of mmpretrain.
        predict_on: Who predicts outside training: ``'teacher'`` or ``'student'``.
        data_preprocessor: Config of the data preprocessor; its type can be left out.
        init_cfg: As for every module of MMEngine.
    """

    def __init__(
        self,
        classifier: dict,
        predict_on: str = 'teacher',
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(
            classifier,
            labeller=None,
            predict_on=predict_on,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
