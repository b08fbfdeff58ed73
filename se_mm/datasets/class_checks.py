# SPDX-License-Identifier: Apache-2.0
"""Check the classes and labels of data sets, heads and metrics, and compare them.

The functions take the config key of what they check, for their messages, and raise OptionError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from se_mm.smoothing.options import OptionError


def listed(names: Sequence[Any], most: int = 10) -> str:
    """Join names for a message, up to the first ``most``."""
    shown = ', '.join(str(name) for name in names[:most])
    return f'{shown}, ... ({len(names)} in all)' if len(names) > most else shown


def classes_of(key: str, dataset: Any) -> tuple[str, ...]:
    """Return the names of a data set's classes, at least two."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    if isinstance(classes, str) or len(classes) < 2:
        raise OptionError(
            f'{key} must have at least two classes, got {classes!r} of a {type(dataset).__name__}; '
            f'set its metainfo=dict(classes=[...])'
        )
    return tuple(classes)


def labels_of_dataset(key: str, dataset: Any) -> np.ndarray:
    """Return the only label of each image, (n,) int64; negative for images without one."""
    try:
        labels = np.asarray(dataset.get_gt_labels())
    except (AttributeError, KeyError, ValueError):  # No labels, or several for an image.
        labels = np.empty(())
    if labels.ndim != 1 or labels.dtype.kind not in 'iu':
        raise OptionError(
            f'{key} must have one label for each image, got a {type(dataset).__name__!r} without; '
            f'several labels for an image are not supported'
        )
    return labels.astype(np.int64)


def check_labels(key: str, labels: np.ndarray, num_classes: int, unlabelled: bool = False) -> None:
    """Reject labels (n,) that are too large or, unless ``unlabelled``, negative."""
    wrong = labels >= num_classes if unlabelled else (labels < 0) | (labels >= num_classes)
    if wrong.any():
        first, *others = np.flatnonzero(wrong)
        raise OptionError(
            f'labels of {key} must be in 0 to {num_classes - 1}, got {labels[first]} for image '
            f'{first} and {len(others)} more'
        )


def count_images(key: str, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Count the labels (n,) of each class, at least one; negative labels are left out."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    if not counts.all():
        raise OptionError(
            f'{key} must have a labelled image of every class, got none of '
            f'{classes[int(counts.argmin())]!r}'
        )
    return counts


def check_same_classes(key: str, classes: Sequence[str], other: str, wanted: Sequence[str]) -> None:
    """Reject classes that differ in name or order from those ``wanted`` by the key ``other``."""
    if tuple(classes) == tuple(wanted):
        return
    missing = [name for name in wanted if name not in classes]
    strange = [name for name in classes if name not in wanted]
    parts = [f'without {listed(missing)}'] if missing else []
    parts += [f'with {listed(strange)}'] if strange else []
    raise OptionError(
        f'classes of {key} must be those of {other} ({listed(wanted)}), got {listed(classes)}: '
        f'{" and ".join(parts) or "in another order"}'
    )


def check_outputs(key: str, outputs: Any, classes: Sequence[str], data: str) -> None:
    """Reject a head whose number of outputs, if known, is not that of the classes of ``data``."""
    if outputs is not None and outputs != len(classes):
        raise OptionError(
            f'{key} must be {len(classes)}, the number of classes of {data} ({listed(classes)}), '
            f'got {outputs}'
        )


def check_metrics(key: str, metrics: Sequence[Any], num_classes: int) -> None:
    """Reject a top-k accuracy with k above the number of classes."""
    for metric in metrics:
        topk = getattr(metric, 'topk', None)
        if isinstance(topk, (tuple, list)) and topk and max(topk) > num_classes:
            fitting = tuple(k for k in topk if k <= num_classes) or (1,)
            raise OptionError(
                f'{key}.topk must be at most the number of classes, {num_classes}, got '
                f'{max(topk)}; set {key}.topk={fitting}'
            )
