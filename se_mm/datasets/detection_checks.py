# SPDX-License-Identifier: Apache-2.0
"""Check that a detection config has the same classes in its heads, data sets and COCO files."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, DefaultScope

from se_mm.datasets.class_checks import check_outputs, check_same_classes, listed
from se_mm.datasets.coco_files import count_boxes, read_categories, read_coco
from se_mm.smoothing.options import OptionError, did_you_mean

MOST_BYTES = 64 * 2**20
"""Boxes in larger annotation files are not counted, which would take a minute."""


def check_detection_classes(cfg: Config) -> None:
    """Compare the classes of a detector's head, data sets and COCO files; count unusable boxes.

    mmdet numbers the classes in the order of the file's categories, whatever their order in
    ``metainfo``. It silently drops boxes of other categories, even if none is left.

    Args:
        cfg: A config. Models other than detectors, data sets other than ``CocoDataset`` and those
            of se_mm, and missing files are not checked.
    """
    heads = list(_heads(cfg.get('model')))
    if not heads:
        return
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        _check_sources(cfg.get('train_dataloader') or {})
        found = [
            (key, dataset, classes)
            for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')
            for key, dataset in _datasets(cfg, loader)
            if (classes := _classes_in(key, dataset)) and _is_ours_to_judge(dataset)
        ]
        if not found or not found[0][0].startswith('train_dataloader'):
            return
        first, _, trained = found[0]
        for head, outputs in heads:
            check_outputs(head, outputs, trained, first)
        for key, dataset, classes in found:
            check_same_classes(key, classes, first, trained)
            if path := _coco_file(dataset):
                _check_categories(key, path, classes)
                if key.startswith('train_dataloader') and _loads_boxes(dataset):
                    _check_boxes(key, path, classes)


def check_evaluator_file(cfg: Config, stage: str) -> None:
    """Reject a COCO metric of a ``stage`` whose annotations are not those of its data set."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        found = _datasets(cfg, f'{stage}_dataloader')
        paths = {key: path for key, dataset in found if (path := _coco_file(dataset))}
    if len(paths) != 1:
        return
    ((key, path),) = paths.items()
    evaluator = f'{stage}_evaluator'
    for where, part in _parts(evaluator, cfg.get(evaluator)):
        file = part.get('ann_file')
        # A copy under another name is as good; mmdet reports a missing file.
        if file and os.path.isfile(file) and not filecmp.cmp(file, path, shallow=False):
            raise OptionError(f'{where}.ann_file must be the file of {key}, {path!r}, got {file!r}')


def _parts(key: str, part: Any) -> Iterator[tuple[str, Mapping]]:
    """Yield a part of a config and all parts inside it, by key."""
    if isinstance(part, Mapping):
        yield key, part
        for name, child in part.items():
            yield from _parts(f'{key}.{name}', child)
    elif isinstance(part, (list, tuple)):
        for number, child in enumerate(part):
            yield from _parts(f'{key}.{number}', child)


def _heads(model: Any) -> Iterator[tuple[str, int]]:
    """Yield the number of classes of each head of a model, by config key."""
    for key, part in _parts('model', model):
        outputs = part.get('num_classes')
        # Word scores and class-agnostic masks have another number of outputs.
        other = part.get('class_agnostic') or part.get('contrastive_cfg')
        is_head = re.search(r'\.(bbox|mask)_head(\.\d+)?$', key)
        if is_head and isinstance(outputs, int) and not other:
            yield f'{key}.num_classes', outputs


def _datasets(cfg: Config, loader: str) -> Iterator[tuple[str, Mapping]]:
    """Yield the data sets of a dataloader without their wrappers, by config key."""
    for key, part in _parts(loader, cfg.get(loader)):
        is_wrapper = isinstance(part.get('datasets', part.get('dataset')), (Mapping, list, tuple))
        if re.search(r'\.(dataset|datasets\.\d+)$', key) and not is_wrapper:
            yield key, part


def _kind(dataset: Mapping) -> Optional[type]:
    """Return the class of a data set; None if it is not registered here."""
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
            kind = registry.get(kind)
    return kind if isinstance(kind, type) else None


def _classes_in(key: str, dataset: Mapping) -> Optional[tuple[str, ...]]:
    """Return the classes that a config sets for a data set; None if only the data have them."""
    given = dataset.get('metainfo') or {}
    if 'classes' not in given and 'CLASSES' in given:
        raise OptionError(f"{key}.metainfo must have 'classes' in lower case, got 'CLASSES'")
    own = getattr(_kind(dataset), 'METAINFO', None) or {}
    classes = given.get('classes') or own.get('classes')
    if isinstance(classes, str) and not os.path.isfile(classes):
        raise OptionError(
            f'{key}.metainfo.classes must be a list, got {classes!r}; write ({classes!r},)'
        )
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


def _coco_file(dataset: Mapping) -> Optional[str]:
    """Return the path of the COCO-format file of a data set; None without, or if it is missing."""
    file = dataset.get('ann_file')
    if not file or not isinstance(file, str) or not _is_coco(dataset):
        return None
    path = os.path.join(dataset.get('data_root') or '', file)
    return path if os.path.isfile(path) else None


def _check_categories(key: str, path: str, classes: tuple[str, ...]) -> None:
    """Compare the classes with the categories of a COCO file."""
    names = [category['name'] for category in read_categories(path)]
    if [name for name in names if name in classes] != list(classes):
        strange = [name for name in classes if name not in names]
        hint = did_you_mean(strange[0], names) if strange else ' mmdet numbers them in that order.'
        raise OptionError(
            f'classes of {key} must be categories of {path!r}, in their order ({listed(names)}), '
            f'got {listed(strange or classes)}.{hint}'
        )


def _loads_boxes(dataset: Mapping) -> bool:
    steps = [step for step in dataset.get('pipeline') or () if isinstance(step, Mapping)]
    return any(str(step.get('type')).endswith('LoadAnnotations') for step in steps)


def _check_boxes(key: str, path: str, classes: tuple[str, ...]) -> None:
    """Warn of boxes that are not learned, and reject a file without any other."""
    if os.path.getsize(path) > MOST_BYTES:
        return
    coco = read_coco(path)
    counts = count_boxes(coco, [c['id'] for c in coco['categories'] if c['name'] in classes])
    if not counts.usable:
        raise OptionError(
            f'{key} must have a box that can be learned, got none in {path!r}: {counts}'
        )
    if counts.reasons:
        MMLogger.get_current_instance().warning(f'{key}: {counts} in {path!r}')


def _check_sources(loader: Mapping) -> None:
    """Reject mmdet's multi-source sampler if it would wait forever for images of a source."""
    sampler: Mapping[str, Any] = loader.get('sampler') or {}
    ratio, size = sampler.get('source_ratio'), sampler.get('batch_size')
    if not ratio or not isinstance(size, int):
        return
    counts = [int(size * part / sum(ratio)) for part in ratio]
    counts[0] = size - sum(counts[1:])
    if min(counts) < 1:
        raise OptionError(
            f'train_dataloader.sampler.batch_size must leave an image for each source, got {size} '
            f'in the ratio {list(ratio)}, which is {counts}; to train on one source, use its data '
            f'set alone with an InfiniteSampler'
        )
