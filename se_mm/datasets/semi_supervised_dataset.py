# SPDX-License-Identifier: Apache-2.0
"""A few labelled images and many unlabelled ones as one data set of two sources."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch.utils.data import Dataset, get_worker_info

from se_mm.datasets.class_checks import check_labels, classes_of, labels_of_dataset
from se_mm.datasets.image_files import ReadPolicy, names_of, paths_of
from se_mm.datasets.label_split import LabelSplit, draw_split
from se_mm.datasets.multi_source_batch_sampler import Draw
from se_mm.rng import rng_untouched, seed_all
from se_mm.smoothing.options import OptionError, check_keys

SPLIT_KEYS = ('num_labels', 'seed', 'balanced')


@DATASETS.register_module()
class SemiSupervisedDataset(Dataset):
    """The labelled images of a split, followed by the unlabelled ones.

    An item is what a pipeline makes of an image. An index that is a
    :class:`~se_mm.datasets.multi_source_batch_sampler.Draw` makes the pipeline's randomness, by
    Python's, NumPy's and torch's global generators, a function of that draw.

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
        split: Which of its images are labelled. A path of a file that ``tools/split_labels.py`` or
            a run has written; ``dict(num_labels=, seed=, balanced=)``, to be drawn; None: all of
            them.
        unlabelled: Config of a data set whose labels, if it has any, are not learned: where a class
            has the name of a labelled one, they tell how good the pseudo-labels are. None: all
            images of ``labelled``, as published results have it. False: there are none.
        labelled_pipeline: Transforms of a labelled image, ending in ``PackInputs``.
        unlabelled_pipeline: Transforms of an unlabelled image, ending in ``MultiView`` and
            ``PackInputs``.
        unreadable: What happens to an image file that cannot be read: ``'error'`` ends the run with
            its name; ``'skip'`` names and counts it, and takes the next image of its source. The
            labelled images are all read first.

    Attributes:
        source_sizes: Numbers of the labelled and of the unlabelled images.
        split: The split, of :class:`~se_mm.datasets.label_split.LabelSplit`, or None.
        metainfo: That of ``labelled``.

    Raises:
        OptionError: If an option is out of its range, or the split does not fit the data.
    """

    def __init__(
        self,
        labelled: dict,
        split: Union[str, dict, None] = None,
        unlabelled: Union[dict, bool, None] = None,
        labelled_pipeline: Optional[list] = None,
        unlabelled_pipeline: Optional[list] = None,
        unreadable: str = 'error',
    ) -> None:
        self.policy = ReadPolicy(unreadable)
        self._labelled = build_dataset('labelled', labelled)
        self.metainfo = self._labelled.metainfo
        classes = classes_of('labelled', self._labelled)
        labels = labels_of_dataset('labelled', self._labelled)
        self.split = self._find_split(split, labelled, classes, labels)
        if self.split is None:
            self._check_all_labelled(labels, classes)
            self._indices = np.arange(len(labels))
        else:
            self._indices = np.array(self.split.indices)
        self._indices = self._readable(self._indices, labels, classes)
        if unlabelled is None:
            self._unlabelled = self._labelled
        elif unlabelled is False:
            self._unlabelled = None
        else:
            self._unlabelled = build_dataset('unlabelled', unlabelled)
        self._truth = self._find_truth(classes)
        sources = [self._indices, *([] if self._unlabelled is None else [self._unlabelled])]
        self.source_sizes = [len(source) for source in sources]
        if not all(self.source_sizes):
            empty = ('labelled', 'unlabelled')[self.source_sizes.index(0)]
            raise OptionError(f'{empty} must have at least one image, got none')
        pipelines = [labelled_pipeline, unlabelled_pipeline][: len(sources)]
        for name, pipeline in zip(('labelled_pipeline', 'unlabelled_pipeline'), pipelines):
            if not pipeline:
                raise OptionError(
                    f'{name} must be a non-empty list of transforms, got {pipeline!r}'
                )
        self._pipelines = [Compose(pipeline) for pipeline in pipelines]
        self._try_views()

    def __len__(self) -> int:
        return sum(self.source_sizes)

    def __getitem__(self, index: int) -> dict:
        with _drawn(index.key) if isinstance(index, Draw) else nullcontext():
            source = int(index >= self.source_sizes[0])
            place = int(index) - source * self.source_sizes[0]
            for _ in range(self.source_sizes[source]):
                item = self._item(source, place)
                if item is not None:
                    return item
                place = (place + 1) % self.source_sizes[source]
        raise OptionError(f'none of the {("labelled", "unlabelled")[source]} images can be read')

    def _item(self, source: int, place: int) -> Optional[dict]:
        """What a pipeline makes of an image; None if it is to be skipped."""
        if source:
            info = self._unlabelled.get_data_info(place)
            label = info.pop('gt_label', None)
            if np.ndim(label) == 0 and (truth := self._truth.get(label)) is not None:
                info['gt_label'] = truth
        else:
            info = self._labelled.get_data_info(int(self._indices[place]))
        return self.policy.read(info.get('img_path'), lambda: self._pipelines[source](info))

    def _readable(
        self, indices: np.ndarray, labels: np.ndarray, classes: Sequence[str]
    ) -> np.ndarray:
        """The labelled images that can be read, of which every class needs one."""
        kept = indices[self.policy.check(paths_of(self._labelled, indices))]
        left = np.bincount(labels[kept], minlength=len(classes))
        if not left.all():
            raise OptionError(
                f'labelled must have an image of every class that can be read, got none of '
                f'{classes[int(left.argmin())]!r}'
            )
        return kept

    def _find_truth(self, classes: Sequence[str]) -> dict[int, int]:
        """The class that each label of the unlabelled images stands for, by its name."""
        if self._unlabelled is None or self._unlabelled is self._labelled:
            return {label: label for label in range(len(classes))}
        names = (getattr(self._unlabelled, 'metainfo', None) or {}).get('classes') or ()
        numbers = {name: label for label, name in enumerate(classes)}
        truth = {label: numbers[name] for label, name in enumerate(names) if name in numbers}
        strange = [str(name) for name in names if name not in numbers]
        if strange and len(self._unlabelled) and 'gt_label' in self._unlabelled.get_data_info(0):
            print_log(
                f'unlabelled has {len(strange)} classes that labelled does not have, as '
                f'{", ".join(strange[:3])}: the accuracy of pseudo-labels is measured without '
                f'their images',
                logger='current',
                level=logging.WARNING,
            )
        return truth

    def _find_split(
        self, split: Union[str, Mapping, None], labelled: Mapping, classes: Any, labels: np.ndarray
    ) -> Optional[LabelSplit]:
        """The split that a config asks for, checked against the data."""
        if split is None:
            return None
        name = type(self._labelled).__name__
        if isinstance(split, str):
            found = LabelSplit.load(split)
            found.check(split, name, classes, labels, names_of(self._labelled))
            return found
        if not isinstance(split, Mapping):
            raise OptionError(
                f'split must be the path of a file or dict(num_labels=, seed=), got {split!r}'
            )
        check_keys('split', split, SPLIT_KEYS)
        if 'num_labels' not in split:
            raise OptionError(f'split must have num_labels, got {dict(split)!r}')
        return draw_split(name, classes, labels, names=names_of(self._labelled), **split)

    def _check_all_labelled(self, labels: np.ndarray, classes: Any) -> None:
        """Refuse labels that are no classes, and classes without any."""
        check_labels('labelled', labels, len(classes))
        counts = np.bincount(labels, minlength=len(classes))
        if not counts.all():
            raise OptionError(
                f'labelled must have an image of every class, got none of '
                f'{classes[int(counts.argmin())]!r}'
            )

    def _try_views(self) -> None:
        """Find out before the training what a pipeline gives."""
        with rng_untouched():
            for source, key in enumerate(('labelled', 'unlabelled')[: len(self.source_sizes)]):
                inputs = self[source * self.source_sizes[0]].get('inputs')
                one = isinstance(inputs, torch.Tensor)
                if inputs is None or one != (source == 0):
                    wanted = 'a list of views' if source else 'one image'
                    end = 'MultiView and PackInputs' if source else 'PackInputs'
                    raise OptionError(
                        f'{key}_pipeline must give {wanted}, got '
                        f'{"one image" if one else type(inputs).__name__}; end it with {end}'
                    )


def build_dataset(key: str, config: Mapping) -> BaseDataset:
    """Build a data set that a config names, without a pipeline of its own.

    Args:
        key: The config key, for the message.
        config: The config.

    Raises:
        OptionError: If it cannot be built; it says why in one line.
    """
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


@contextmanager
def _drawn(key: tuple[int, int, int]) -> Iterator[None]:
    """Seed the global generators by a key; in the main process, put them back afterwards."""
    # A worker's generators serve nothing else.
    with rng_untouched() if get_worker_info() is None else nullcontext():
        seed_all(key)
        yield
