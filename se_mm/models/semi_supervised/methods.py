# SPDX-License-Identifier: Apache-2.0
"""Published methods, each a combination of parts of the semi-supervised classifier."""

from __future__ import annotations

from typing import Any, Optional

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
class MeanTeacher(SemiSupervisedClassifier):
    """Mean Teacher: the student matches the teacher's probabilities on another weak view.

    Source: Tarvainen and Valpola, NeurIPS 2017, with their mean squared error. Batches have two
    weak views of an unlabelled image.

    Args:
        classifier: Config of any image classifier of mmpretrain.
        unlabelled_weight: Weight of the loss on unlabelled images.
        ramp_up: Share of the run during which this weight rises.
        **options: Options of :class:`SemiSupervisedClassifier`.
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
    """Pseudo-label: the student learns its own confident predictions on a weak view.

    Source: Lee, ICML workshops 2013, with a threshold as in later comparisons. Batches have one
    weak view of an unlabelled image.

    Args:
        classifier: Config of any image classifier of mmpretrain.
        threshold: Minimum probability of an accepted pseudo-label, in (0, 1].
        labeller: ``'student'`` or ``'teacher'``.
        ramp_up: Share of the run during which the weight of the loss on unlabelled images rises.
        **options: Options of :class:`SemiSupervisedClassifier`.
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
    """Baseline that trains on the labelled images only.

    Args:
        classifier: Config of any image classifier of mmpretrain.
        predict_on: The network that predicts outside training: ``'teacher'`` or ``'student'``.
        data_preprocessor: Config of the data preprocessor; its type can be left out.
        init_cfg: As in every module of MMEngine.
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
