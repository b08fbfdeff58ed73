# SPDX-License-Identifier: Apache-2.0
"""Collate labelled images and several views of unlabelled ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import FUNCTIONS
from torch import Tensor

from se_mm.smoothing.options import OptionError


@FUNCTIONS.register_module()
def collate_views(samples: Sequence[dict]) -> dict[str, Any]:
    """Collate packed samples with either one image or several views of it.

    The batch has only tensors, since workers would send data samples one by one.

    Args:
        samples: Outputs of mmpretrain's ``PackInputs``. A sample with one image is labelled, one
            with a list of views is unlabelled; the latter's ``gt_label`` is only used to measure
            accuracy.

    Returns:
        ``inputs=dict(labelled=(B, 3, H, W), views=[(U, 3, H, W), ...])`` and
        ``data_samples=dict(labels=(B,), truth=(U,))``, where unknown truth is -1.
    """
    labelled = [sample for sample in samples if isinstance(sample['inputs'], Tensor)]
    unlabelled = [sample for sample in samples if not isinstance(sample['inputs'], Tensor)]
    if not labelled:
        raise OptionError(
            'collate_views needs a labelled image in each batch, got none; use a '
            'MultiSourceBatchSampler'
        )
    views = zip(*(sample['inputs'] for sample in unlabelled))
    return {
        'inputs': {
            'labelled': torch.stack([sample['inputs'] for sample in labelled]),
            'views': [torch.stack(view) for view in views],
        },
        'data_samples': {'labels': _labels(labelled), 'truth': _labels(unlabelled)},
    }


def _labels(samples: list[dict]) -> Tensor:
    labels = [sample['data_samples'].get('gt_label') for sample in samples]
    return torch.tensor([-1 if label is None else int(label) for label in labels])
