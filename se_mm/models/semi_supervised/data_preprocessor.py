# SPDX-License-Identifier: Apache-2.0
"""Data preprocessor for batches of labelled and unlabelled images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS

from se_mm.models.batch_views import BatchViews
from se_mm.smoothing.options import OptionError


@MODELS.register_module()
class SemiSupervisedDataPreprocessor(BaseDataPreprocessor):
    """Applies mmpretrain's classification preprocessor to labelled images and to each view.

    Args:
        views: Transforms of each view, to make the views of unlabelled images on the model's
            device: see :class:`~se_mm.models.batch_views.BatchViews`. Labelled images then get the
            transforms of the first view; pipelines give uint8 images of one size, unlabelled ones
            as a single view. None: the pipelines make the views.
        groups: See there.
        **options: Options of :class:`mmpretrain.models.ClsDataPreprocessor` such as ``mean``,
            ``std`` and ``to_rgb``, except ``batch_augments`` and ``to_onehot``, since labels are
            class numbers.
    """

    def __init__(self, views: Any = None, groups: int = 32, **options: Any) -> None:
        from mmpretrain.models import ClsDataPreprocessor

        super().__init__(non_blocking=True)
        self._views = None if views is None else BatchViews(views, groups)
        for key in ('batch_augments', 'to_onehot'):
            if options.get(key):
                raise OptionError(
                    f'data_preprocessor.{key} must be left out: semi-supervised losses take one '
                    f'class for each image, not mixed labels; got {options[key]!r}'
                )
        self.images = ClsDataPreprocessor(**options)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise the images, and move everything to the model's device.

        The batch is as :func:`se_mm.datasets.collate_views` returns it, or as in mmpretrain's
        classification.
        """
        if not isinstance(data['inputs'], Mapping):
            return self.images(data, training)
        data = self.cast_data(data)
        labelled, views = data['inputs']['labelled'], data['inputs']['views']
        if self._views is not None:
            if len(views) > 1:
                raise OptionError(
                    f'unlabelled_pipeline must give one view of each image, since '
                    f'data_preprocessor.views makes them, got {len(views)}'
                )
            labelled = self._views.view(labelled, 0)
            views = self._views(views[0]) if views else []
        labelled, *views = (
            self.images({'inputs': images}, training)['inputs'] for images in (labelled, *views)
        )
        return {**data, 'inputs': {'labelled': labelled, 'views': views}}


def preprocessor_config(outer: Optional[Mapping], classifier: Mapping) -> dict[str, Any]:
    """Return the config of a model's data preprocessor: its own options and its classifier's.

    Raises:
        OptionError: If the two disagree, or one has another type or mixes images.
    """
    if classifier.get('train_cfg'):
        raise OptionError(
            f'classifier.train_cfg must be left out: semi-supervised losses take one class for '
            f'each image, not mixed labels; got {dict(classifier["train_cfg"])!r}'
        )
    options, inner = dict(outer or {}), dict(classifier.get('data_preprocessor') or {})
    kind = _own_kind('data_preprocessor', options)
    _own_kind('classifier.data_preprocessor', inner)
    for name in options.keys() & inner.keys():
        if not np.array_equal(options[name], inner[name]):  # A tuple is as good as a list.
            raise OptionError(
                f'data_preprocessor.{name} must be that of classifier.data_preprocessor, '
                f'{inner[name]!r}, got {options[name]!r}; give one of the two'
            )
    return {'type': kind, **inner, **options}


def _own_kind(key: str, options: dict[str, Any]) -> Any:
    """Take the type out of the options, and return it, or ours for mmpretrain's, which it wraps."""
    kind = found = options.pop('type', None)
    scope = options.pop('_scope_', None)
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(scope) as registry:
            found = registry.get(kind)
    if kind is None or getattr(found, '__name__', '') == 'ClsDataPreprocessor':
        return SemiSupervisedDataPreprocessor.__name__
    if getattr(found, '__module__', '').partition('.')[0] in ('mmpretrain', 'mmdet', 'mmengine'):
        raise OptionError(f"{key}.type must be 'SemiSupervisedDataPreprocessor', got {kind!r}")
    return kind
