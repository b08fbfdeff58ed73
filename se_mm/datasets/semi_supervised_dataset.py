# SPDX-License-Identifier: Apache-2.0
"""A few labelled images and many unlabelled ones as one data set of two sources."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch.utils.data import Dataset, get_worker_info

from se_mm.datasets.label_split import LabelSplit, draw_split
from se_mm.datasets.multi_source_batch_sampler import Draw
from se_mm.rng import rng_untouched, seed_all
from se_mm.smoothing.options import OptionError, check_choice, check_keys

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
        unlabelled: Config of a data set whose labels, if it has any, are not used. None: all images
            of ``labelled``, as published results have it. False: there are none.
        labelled_pipeline: Transforms of a labelled image, ending in ``PackInputs``.
        unlabelled_pipeline: Transforms of an unlabelled image, ending in ``MultiView`` and
            ``PackInputs``.
        unreadable: What becomes of an image file that cannot be read: ``'error'`` ends the run with
            its name; ``'skip'`` names and counts it, and takes the next image of its source.

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
        self.unreadable = check_choice('unreadable', unreadable, ('error', 'skip'))
        self._labelled = build_dataset('labelled', labelled)
        self.metainfo = self._labelled.metainfo
        classes = self.metainfo.get('classes')
        if not classes:
            raise OptionError(
                f'labelled={labelled.get("type")!r} has no classes: give its metainfo.'
            )
        labels = labels_of_dataset('labelled', self._labelled)
        self.split = self._find_split(split, labelled, classes, labels)
        if self.split is None:
            self._check_all_labelled(labels, classes)
            self._indices = np.arange(len(labels))
        else:
            self._indices = np.array(self.split.indices)
        if unlabelled is None:
            self._unlabelled = self._labelled
        elif unlabelled is False:
            self._unlabelled = None
        else:
            self._unlabelled = build_dataset('unlabelled', unlabelled)
        sources = [self._indices, *([] if self._unlabelled is None else [self._unlabelled])]
        self.source_sizes = [len(source) for source in sources]
        if not all(self.source_sizes):
            empty = ('labelled', 'unlabelled')[self.source_sizes.index(0)]
            raise OptionError(f'{empty} has no images: at least one is needed.')
        pipelines = [labelled_pipeline, unlabelled_pipeline][: len(sources)]
        for name, pipeline in zip(('labelled_pipeline', 'unlabelled_pipeline'), pipelines):
            if not pipeline:
                raise OptionError(f'{name}={pipeline!r} is not allowed: a list of transforms.')
        self._pipelines = [Compose(pipeline) for pipeline in pipelines]
        self._skipped: set[str] = set()
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
        raise OptionError(f'none of the {("labelled", "unlabelled")[source]} images can be read.')

    def _item(self, source: int, place: int) -> Optional[dict]:
        """What a pipeline makes of an image; None if it is to be skipped."""
        if source:
            info = self._unlabelled.get_data_info(place)
        else:
            info = self._labelled.get_data_info(int(self._indices[place]))
        path = info.get('img_path')
        if path in self._skipped:
            return None
        try:
            return self._pipelines[source](info)
        except Exception as error:
            if path is None or _readable(path):
                raise  # It is the pipeline that fails.
            if self.unreadable == 'error':
                raise OptionError(
                    f"image {path!r} cannot be read: mend or remove it, or set unreadable='skip'."
                ) from error
        self._skipped.add(path)
        print_log(
            f'image {path!r} cannot be read and is skipped, number {len(self._skipped)} in this '
            f'process.',
            logger='current',
            level=logging.WARNING,
        )
        return None

    def _find_split(
        self, split: Union[str, Mapping, None], labelled: Mapping, classes: Any, labels: np.ndarray
    ) -> Optional[LabelSplit]:
        """The split that a config asks for, checked against the data."""
        if split is None:
            return None
        name = type(self._labelled).__name__
        if isinstance(split, str):
            found = LabelSplit.load(split)
            found.check(split, name, classes, labels)
            return found
        if not isinstance(split, Mapping):
            raise OptionError(
                f'split={split!r} is not allowed: the path of a file, or dict(num_labels=, seed=).'
            )
        check_keys('split', split, SPLIT_KEYS)
        if 'num_labels' not in split:
            raise OptionError(f'split={dict(split)!r} has no num_labels.')
        return draw_split(name, classes, labels, **split)

    def _check_all_labelled(self, labels: np.ndarray, classes: Any) -> None:
        """Refuse labels that are no classes, and classes without any."""
        counts = np.bincount(labels[labels >= 0], minlength=len(classes))
        if len(counts) > len(classes) or (labels < 0).any():
            wrong = labels[(labels < 0) | (labels >= len(classes))][0]
            raise OptionError(
                f'labelled has the label {wrong}: 0 to {len(classes) - 1} is allowed.'
            )
        if not counts.all():
            raise OptionError(
                f'class {classes[int(counts.argmin())]!r} of labelled has no image: every class '
                f'needs one with its label.'
            )

    def _try_views(self) -> None:
        """Find out before the training what a pipeline gives."""
        with rng_untouched():
            for source, key in enumerate(('labelled', 'unlabelled')[: len(self.source_sizes)]):
                inputs = self[source * self.source_sizes[0]].get('inputs')
                one = isinstance(inputs, torch.Tensor)
                if inputs is None or one != (source == 0):
                    wanted = 'views by MultiView' if source else 'one image'
                    raise OptionError(
                        f'{key}_pipeline gives {"one image" if one else type(inputs).__name__}, '
                        f'where {wanted} and then PackInputs are needed.'
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
        raise OptionError(f'{key}={config!r} is not allowed: the config of a data set.')
    if config.get('pipeline'):
        raise OptionError(f'{key}.pipeline is not allowed: give {key}_pipeline beside it.')
    try:
        return DATASETS.build(dict(config))
    except OptionError:
        raise
    except (RuntimeError, OSError, AssertionError, ValueError, TypeError, KeyError) as error:
        reason = ' '.join(str(error).split())
        raise OptionError(f'{key}={config["type"]!r} cannot be built: {reason}') from error


def labels_of_dataset(key: str, dataset: BaseDataset) -> np.ndarray:
    """All labels of a data set, shape (n,), int64; -1 where there is none.

    Raises:
        OptionError: If it does not know them.
    """
    if hasattr(dataset, 'get_gt_labels'):
        try:
            return np.asarray(dataset.get_gt_labels(), dtype=np.int64)
        except KeyError:
            pass
    raise OptionError(f'{key}={type(dataset).__name__!r} has no labels, which it needs.')


@contextmanager
def _drawn(key: tuple[int, int, int]) -> Iterator[None]:
    """Seed the global generators by a key; in the main process, put them back afterwards."""
    # A worker's generators serve nothing else.
    with rng_untouched() if get_worker_info() is None else nullcontext():
        seed_all(key)
        yield


def _readable(path: str) -> bool:
    import mmcv

    try:
        return mmcv.imread(path) is not None
    except Exception:  # Whatever a decoder raises, and a file that is not there.
        return False
