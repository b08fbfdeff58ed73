# SPDX-License-Identifier: Apache-2.0
"""The head for linear evaluation: a linear layer followed by BatchNorm1d, as in the paper."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import nn


@MODELS.register_module(name='LinearBNHead')
def linear_bn_head(num_classes: int, in_channels: int, **kwargs: Any) -> nn.Module:
    """Build mmpretrain's ``LinearClsHead`` with a BatchNorm1d after its linear layer.

    A function and not a subclass, so that mmpretrain is imported only when the head is built.
    ``fc.0`` is the linear layer, ``fc.1`` the normalisation.

    Args:
        num_classes: Number of classes.
        in_channels: Number of features per image.
        **kwargs: Other arguments of ``LinearClsHead``: ``loss``, ``topk``, ``cal_acc``,
            ``init_cfg`` (default: weights from N(0, 0.01), biases 0).

    Returns:
        A ``LinearClsHead``.
    """
    from mmpretrain.models.heads import LinearClsHead

    head = LinearClsHead(num_classes=num_classes, in_channels=in_channels, **kwargs)
    head.fc = nn.Sequential(head.fc, nn.BatchNorm1d(num_classes))
    return head
