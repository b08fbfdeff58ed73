# SPDX-License-Identifier: Apache-2.0
"""Labelled and unlabelled images as one data set with two sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional, Union

import numpy as np
import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from se_mm.datasets.class_checks import check_labels, classes_of, count_images, labels_of_dataset
from se_mm.datasets.image_files import ReadPolicy, names_of, paths_of
from se_mm.datasets.label_split import LabelSplit, draw_split
from se_mm.rng import rng_untouched
from se_mm.smoothing.options import OptionError, check_keys


@DATASETS.register_module()
class SemiSupervisedDataset(Dataset):
    """The labelled images of a split, followed by the unlabelled ones.

    Example:
        >>> dataset = dict(
        ...     type='SemiSupervisedDataset',
        ...     labelled=dict(type='Glyphs', split='train'),
        ...     split=dict(num_labels=80, seed=0),
        ...     labelled_pipeline=[...],
        ...     unlabelled_pipeline=[...],
        ... )

    Args:
        labelled: Config of a data set with labels, without a pipeline.
        split: Which of its images are labelled: the path of a file written by
            ``tools/split_labels.py`` or a run, or ``dict(num_labels=, seed=, balanced=)`` to draw
            them. None: all.
        unlabelled: Config of a data set whose labels, if any, are not learned; those of classes
            that ``labelled`` has too are used to measure the quality of pseudo-labels. None: all
            images of ``labelled``, as in published results. False: no unlabelled images.
        labelled_pipeline: Transforms of a labelled image, ending in ``PackInputs``.
        unlabelled_pipeline: Transforms of an unlabelled image, ending in ``MultiView`` and
            ``PackInputs``.
        unreadable: See :class:`~se_mm.datasets.image_files.ReadPolicy`; the next image of its
            source replaces a skipped one. All labelled images are read when the data set is built.

    Attributes:
        source_sizes: Numbers of labelled and unlabelled images.
        split: The split, a :class:`~se_mm.datasets.label_split.LabelSplit`, or None.
        metainfo: That of ``labelled``.
    """

    def __init__(
        self,
        labelled: dict,
        split: Union[str, dict, None] = None,
        unlabelled: Union[dict, Literal[False], None] = None,
        labelled_pipeline: Optional[list] = None,
        unlabelled_pipeline: Optional[list] = None,
        unreadable: str = 'error',
    ) -> None:
        self.policy = ReadPolicy(unreadable)
        images = build_dataset('labelled', labelled)
        self.metainfo = images.metainfo
        classes, labels = classes_of('labelled', images), labels_of_dataset('labelled', images)
        self.split = _find_split(split, images, classes, labels)
        if self.split is None:
            check_labels('labelled', labels, len(classes))
            count_images('labelled', labels, classes)
            indices = np.arange(len(labels))
        else:
            indices = np.array(self.split.indices)
        indices = indices[self.policy.check(paths_of(images, indices))]
        count_images('labelled without unreadable images', labels[indices], classes)
        truth = {label: label for label in range(len(classes))}
        # For each source: images, which of them, and labels as numbers of the labelled classes.
        self._sources = [(images, indices, truth)]
        self._pipelines = [Compose(labelled_pipeline)]
        if unlabelled is not False:
            if unlabelled is not None:
                images = build_dataset('unlabelled', unlabelled)
                truth = _find_truth(images, classes)
            self._sources.append((images, np.arange(len(images)), truth))
            self._pipelines.append(Compose(unlabelled_pipeline))
        self.source_sizes = [len(indices) for _, indices, _ in self._sources]
        self._try_views()

    def __len__(self) -> int:
        return sum(self.source_sizes)

    def __getitem__(self, index: int) -> dict:
        source = int(index >= self.source_sizes[0])
        place = index - source * self.source_sizes[0]
        for _ in range(self.source_sizes[source]):
            item = self._item(source, place)
            if item is not None:
                return item
            place = (place + 1) % self.source_sizes[source]
        raise OptionError(f'none of the {("labelled", "unlabelled")[source]} images can be read')

    def _item(self, source: int, place: int) -> Optional[dict]:
        """Return an image after the pipeline; None if it is skipped."""
        images, indices, truth = self._sources[source]
        info = images.get_data_info(int(indices[place]))
        label = info.pop('gt_label', None)
        if np.ndim(label) == 0 and label in truth:
            info['gt_label'] = truth[label]
        return self.policy.read(info.get('img_path'), lambda: self._pipelines[source](info))

    def _try_views(self) -> None:
        """Check the output of the pipelines on the first images."""
        with rng_untouched():
            for source in range(len(self.source_sizes)):
                inputs = self[source * self.source_sizes[0]].get('inputs')
                if not isinstance(inputs, (list, tuple) if source else torch.Tensor):
                    key = ('labelled', 'unlabelled')[source]
                    wanted = 'a list of views' if source else 'one image'
                    end = 'MultiView and PackInputs' if source else 'PackInputs'
                    raise OptionError(
                        f'{key}_pipeline must give {wanted}, got {type(inputs).__name__}; end it '
                        f'with {end}'
                    )


def _find_split(
    split: Union[str, Mapping, None], images: Any, classes: tuple[str, ...], labels: np.ndarray
) -> Optional[LabelSplit]:
    """Return the split of a config, checked against the data."""
    if split is None:
        return None
    name, names = type(images).__name__, names_of(images)
    if isinstance(split, str):
        found = LabelSplit.load(split)
        found.check(split, name, classes, labels, names)
        return found
    if not isinstance(split, Mapping):
        raise OptionError(
            f'split must be the path of a file or dict(num_labels=, seed=), got {split!r}'
        )
    check_keys('split', split, ('num_labels', 'seed', 'balanced'))
    return draw_split(name, classes, labels, names=names, **{'num_labels': None, **split})


def _find_truth(unlabelled: Any, classes: Sequence[str]) -> dict[int, int]:
    """Map labels of the unlabelled images to classes of the labelled ones, by name."""
    if not len(unlabelled):
        raise OptionError('unlabelled must have at least one image, got none')
    names = (getattr(unlabelled, 'metainfo', None) or {}).get('classes') or ()
    strange = [str(name) for name in names if name not in classes]
    if strange and 'gt_label' in unlabelled.get_data_info(0):
        MMLogger.get_current_instance().warning(
            f'unlabelled has {len(strange)} classes that labelled does not have, such as '
            f'{", ".join(strange[:3])}; their images are excluded from the accuracy of '
            f'pseudo-labels'
        )
    numbers = {name: label for label, name in enumerate(classes)}
    return {label: numbers[name] for label, name in enumerate(names) if name in numbers}


def build_dataset(key: str, config: Mapping) -> BaseDataset:
    """Build the data set at a config key, or raise OptionError with the reason in one line."""
    if not isinstance(config, Mapping) or 'type' not in config:
        raise OptionError(f'{key} must be the config of a data set, got {config!r}')
    if config.get('pipeline'):
        raise OptionError(f'{key}.pipeline must be left out; set {key}_pipeline instead')
    try:
        return DATASETS.build(dict(config))
    except OptionError:
        raise
    except (RuntimeError, OSError, AssertionError, ValueError, TypeError, KeyError) as error:
        reason = ' '.join(str(error).split())
        raise OptionError(f'{key}={config["type"]!r} cannot be built: {reason}') from error
