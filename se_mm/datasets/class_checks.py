# SPDX-License-Identifier: Apache-2.0
"""Check that heads, data sets, label files and metrics have the same classes."""

from __future__ import annotations

import filecmp
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from se_mm.datasets.coco_files import count_boxes, read_categories, read_coco
from se_mm.smoothing.options import OptionError, did_you_mean

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
HEADS = ('bbox_head', 'mask_head')
MOST_BYTES = 64 * 2**20
"""Boxes in larger annotation files are not counted, which would take a minute."""


def listed(names: Sequence[Any], most: int = 10) -> str:
    """Join names for a message, up to the first ``most``."""
    shown = ', '.join(str(name) for name in names[:most])
    return f'{shown}, ... ({len(names)} in all)' if len(names) > most else shown


def classes_of(key: str, dataset: Any) -> tuple[str, ...]:
    """Return the names of a data set's classes, at least two.

    Args:
        key: The config key, for the message.
        dataset: The data set.

    Raises:
        OptionError: If it has none, one, or no list of names.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not classes:
        raise OptionError(
            f'{key} must know its classes, got a {type(dataset).__name__} without; set its '
            f'metainfo=dict(classes=[...])'
        )
    if isinstance(classes, str):
        raise OptionError(
            f'{key} must have a list of classes, got {classes!r}; write ({classes!r},)'
        )
    if len(classes) < 2:
        raise OptionError(f'{key} must have at least two classes, got only {listed(classes)!r}')
    return tuple(classes)


def labels_of_dataset(key: str, dataset: Any) -> np.ndarray:
    """Return all labels of a data set, shape (n,), int64; negative for images without one.

    Raises:
        OptionError: If it cannot list them, or has several for an image.
    """
    labels = None
    if hasattr(dataset, 'get_gt_labels'):
        try:
            labels = np.asarray(dataset.get_gt_labels())
        except (KeyError, ValueError):  # No labels, or several for an image.
            labels = None
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in 'iu':
        raise OptionError(
            f'{key} must have one label for each image, got a {type(dataset).__name__!r} without; '
            f'several labels for an image are not supported'
        )
    return labels.astype(np.int64)


def check_labels(key: str, labels: np.ndarray, num_classes: int) -> None:
    """Reject labels that are not class numbers.

    Args:
        key: The config key, for the message.
        labels: Shape (n,), int64.
        num_classes: Number of classes.

    Raises:
        OptionError: If one is negative or too large.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise OptionError(
            f'labels of {key} must be in 0 to {num_classes - 1}, got {labels[wrong[0]]} for image '
            f'{wrong[0]} and {wrong.size - 1} more'
        )


def check_same_classes(key: str, classes: Sequence[str], other: str, wanted: Sequence[str]) -> None:
    """Reject classes that differ from expected ones in name or order.

    Args:
        key: Config key of the classes.
        classes: Their names.
        other: Config key of the expected classes.
        wanted: The expected names.

    Raises:
        OptionError: If they differ; it lists the names.
    """
    if tuple(classes) == tuple(wanted):
        return
    missing = [name for name in wanted if name not in classes]
    strange = [name for name in classes if name not in wanted]
    details = [f'without {listed(missing)}'] if missing else []
    details += [f'with {listed(strange)} instead' if missing else f'with {listed(strange)} more']
    if not missing and not strange:
        details = ['in another order']
    elif not strange:
        details = details[:1]
    raise OptionError(
        f'classes of {key} must be those of {other} ({listed(wanted)}), got {listed(classes)}: '
        f'{" and ".join(details)}'
    )


def check_outputs(key: str, outputs: Any, classes: Sequence[str], data: str) -> None:
    """Reject a head whose number of classes differs from that of the data.

    Args:
        key: Config key of the head's number of classes.
        outputs: This number; None is not checked.
        classes: Names of the data's classes.
        data: Config key of the data.

    Raises:
        OptionError: If the numbers differ.
    """
    if outputs is not None and outputs != len(classes):
        raise OptionError(
            f'{key} must be {len(classes)}, the number of classes of {data} ({listed(classes)}), '
            f'got {outputs}'
        )


def check_metrics(key: str, metrics: Sequence[Any], num_classes: int) -> None:
    """Reject a top-k accuracy with k above the number of classes.

    Args:
        key: The config key of the evaluator.
        metrics: The metrics, built.
        num_classes: Number of classes.

    Raises:
        OptionError: If a k exceeds the number of classes.
    """
    for metric in metrics:
        topk = getattr(metric, 'topk', None)
        if isinstance(topk, (tuple, list)) and topk and max(topk) > num_classes:
            fitting = tuple(k for k in topk if k <= num_classes) or (1,)
            raise OptionError(
                f'{key}.topk must be at most the number of classes, {num_classes}, got '
                f'{max(topk)}; set {key}.topk={fitting}'
            )


def check_detection_classes(cfg: Config) -> None:
    """Compare the classes of a detector's head, data sets and COCO files; count unusable boxes.

    mmdet numbers the classes in the order of the file's categories, whatever their order in
    ``metainfo``. It silently drops boxes of other categories, even if none is left.

    Args:
        cfg: A config. Models other than detectors, data sets other than ``CocoDataset`` and those
            of se_mm, and missing files are not checked.

    Raises:
        OptionError: If classes disagree, a source of a batch is empty, or no box can be learned.
    """
    heads = list(_heads('model', cfg.get('model')))
    if not heads:
        return
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        _check_sources(cfg.get('train_dataloader') or {})
        first: Optional[tuple[str, tuple[str, ...]]] = None
        for loader in LOADERS:
            dataset = (cfg.get(loader) or {}).get('dataset')
            for key, leaf in _leaves(f'{loader}.dataset', dataset):
                classes = _leaf_classes(key, leaf)
                if classes is None or not _is_ours_to_judge(leaf):
                    continue
                learned = loader == 'train_dataloader'
                if first is None and learned:
                    first = key, classes
                    for head, outputs in heads:
                        check_outputs(head, outputs, classes, key)
                if first is not None:
                    check_same_classes(key, classes, *first)
                    _check_file(key, leaf, classes, learned)


def check_evaluator_file(cfg: Config, stage: str) -> None:
    """Reject a COCO metric whose annotations are not those that the data set reads.

    Args:
        cfg: A config. Data sets other than ``CocoDataset`` and missing ones are not checked.
        stage: ``'val'`` or ``'test'``.

    Raises:
        OptionError: If the metric's file is missing, or another one.
    """
    evaluator = cfg.get(f'{stage}_evaluator') or {}
    metrics = evaluator if isinstance(evaluator, list) else evaluator.get('metrics') or [evaluator]
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        dataset = (cfg.get(f'{stage}_dataloader') or {}).get('dataset')
        paths = {
            key: os.path.join(leaf.get('data_root') or '', leaf['ann_file'])
            for key, leaf in _leaves(f'{stage}_dataloader.dataset', dataset)
            if isinstance(leaf.get('ann_file'), str) and _is_coco(leaf)
        }
    if len(paths) != 1:
        return
    ((key, path),) = paths.items()
    for metric in metrics:
        file = metric.get('ann_file') if isinstance(metric, Mapping) else None
        if not isinstance(file, str) or '://' in file or not os.path.isfile(path):
            continue
        # A copy under another name is as good.
        if not os.path.isfile(file) or not filecmp.cmp(file, path, shallow=False):
            problem = 'another file' if os.path.isfile(file) else 'which does not exist'
            raise OptionError(
                f'{stage}_evaluator.ann_file must be the file of {key}, {path!r}, got {file!r}, '
                f'{problem}'
            )


def _heads(key: str, part: Any, is_head: bool = False) -> Iterator[tuple[str, int]]:
    """Yield the number of classes of each head of a model, by config key."""
    if isinstance(part, Mapping):
        outputs = part.get('num_classes')
        # Word scores and class-agnostic masks have another number of outputs.
        other = part.get('class_agnostic') or part.get('contrastive_cfg')
        if is_head and isinstance(outputs, int) and not other:
            yield f'{key}.num_classes', outputs
        for name, child in part.items():
            yield from _heads(f'{key}.{name}', child, name in HEADS)
    elif isinstance(part, (list, tuple)):
        for number, child in enumerate(part):
            yield from _heads(f'{key}.{number}', child, is_head)


def _leaves(key: str, dataset: Any) -> Iterator[tuple[str, Mapping]]:
    """Yield the data sets inside wrappers, by config key."""
    if not isinstance(dataset, Mapping):
        return
    inner = dataset.get('datasets')
    if isinstance(inner, (list, tuple)):
        for number, part in enumerate(inner):
            yield from _leaves(f'{key}.datasets.{number}', part)
    elif isinstance(dataset.get('dataset'), Mapping):
        yield from _leaves(f'{key}.dataset', dataset['dataset'])
    else:
        yield key, dataset


def _kind(dataset: Mapping) -> Optional[type]:
    """Return the class of a data set; None if it is not registered here."""
    kind = dataset.get('type')
    if not isinstance(kind, str):
        return kind if isinstance(kind, type) else None
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
        found = registry.get(kind)
    return found if isinstance(found, type) else None


def _leaf_classes(key: str, dataset: Mapping) -> Optional[tuple[str, ...]]:
    """Return the classes that a config sets for a data set; None if only the data have them."""
    given = dataset.get('metainfo') or {}
    if not isinstance(given, Mapping):
        return None
    if 'classes' not in given and 'CLASSES' in given:
        raise OptionError(f"{key}.metainfo must have 'classes' in lower case, got 'CLASSES'")
    classes = given.get('classes')
    if isinstance(classes, str) and not os.path.isfile(classes):
        raise OptionError(
            f'{key}.metainfo.classes must be a tuple of names, got {classes!r}; write '
            f'({classes!r},)'
        )
    if classes is None:
        classes = (getattr(_kind(dataset), 'METAINFO', None) or {}).get('classes')
    return tuple(classes) if isinstance(classes, (tuple, list)) else None


def _is_coco(dataset: Mapping) -> bool:
    """Return whether a data set reads a COCO-format file as mmdet's ``CocoDataset`` does."""
    try:
        from mmdet.datasets import CocoDataset
    except ImportError:
        return False
    kind = _kind(dataset)
    # Some subclasses, such as LVIS, read other fields.
    return kind is not None and all(
        getattr(kind, name, None) is getattr(CocoDataset, name)
        for name in ('load_data_list', 'parse_data_info')
    )


def _is_ours_to_judge(dataset: Mapping) -> bool:
    """Return whether each class of a data set needs an output of the head (not tracks or stuff)."""
    return _is_coco(dataset) or getattr(_kind(dataset), '__module__', '').startswith('se_mm.')


def _check_file(key: str, dataset: Mapping, classes: tuple[str, ...], learned: bool) -> None:
    """Compare the classes with the categories of a COCO file, and count the usable boxes."""
    file = dataset.get('ann_file')
    if not file or not isinstance(file, str) or not _is_coco(dataset):
        return
    path = os.path.join(dataset.get('data_root') or '', file)
    if not os.path.isfile(path):
        return  # mmdet reports it.
    categories = read_categories(path)
    names = [category['name'] for category in categories]
    if missing := [name for name in classes if name not in names]:
        raise OptionError(
            f'classes of {key} must be categories of {path!r} ({listed(names)}), got '
            f'{listed(missing)}.{did_you_mean(missing[0], names)}'
        )
    ordered = [name for name in names if name in classes]
    if ordered != list(classes):
        raise OptionError(
            f'classes of {key} must be in the order of the categories of {path!r} '
            f'({listed(ordered)}), got {listed(classes)}; mmdet numbers them in that order'
        )
    loads = any(
        isinstance(step, Mapping) and str(step.get('type')).endswith('LoadAnnotations')
        for step in dataset.get('pipeline') or ()
    )
    if not (learned and loads) or os.path.getsize(path) > MOST_BYTES:
        return
    coco = read_coco(path)
    counts = count_boxes(coco, [c['id'] for c in categories if c['name'] in classes])
    if not counts.usable:
        raise OptionError(
            f'{key} must have a box that can be learned, got none in {path!r}: {counts}'
        )
    if counts.dropped:
        print_log(f'{key}: {counts} in {path!r}', logger='current', level=logging.WARNING)


def _check_sources(loader: Mapping) -> None:
    """Reject a multi-source sampler that would wait forever for images of an empty source."""
    sampler: Any = loader.get('sampler')
    ratio = sampler.get('source_ratio') if isinstance(sampler, Mapping) else None
    if not isinstance(ratio, (list, tuple)):
        return
    key, size = 'train_dataloader.sampler', sampler.get('batch_size')
    if not ratio or any(isinstance(part, bool) or not part > 0 for part in ratio):
        raise OptionError(
            f'{key}.source_ratio must have numbers > 0, got {list(ratio)}; to train on one source, '
            f'use its data set alone with an InfiniteSampler'
        )
    datasets = (loader.get('dataset') or {}).get('datasets')
    if isinstance(datasets, (list, tuple)) and len(datasets) != len(ratio):
        raise OptionError(
            f'{key}.source_ratio must have a number for each of {len(datasets)} data sets, got '
            f'{list(ratio)}'
        )
    if isinstance(size, int):
        counts = [int(size * part / sum(ratio)) for part in ratio]
        counts[0] = size - sum(counts[1:])
        if min(counts) < 1:
            raise OptionError(
                f'{key}.batch_size must leave an image for each source, got {size} in the ratio '
                f'{list(ratio)}, which is {counts}'
            )
        if loader.get('batch_size') not in (None, size):
            raise OptionError(
                f'{key}.batch_size must be train_dataloader.batch_size, '
                f'{loader["batch_size"]}, got {size}'
            )
