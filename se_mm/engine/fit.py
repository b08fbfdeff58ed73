# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint is of the model and of the data that it is loaded for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from se_mm.datasets.class_checks import check_same_classes
from se_mm.evaluation.probe_loop import ProbeLoop
from se_mm.smoothing.options import OptionError
from se_mm.teachers import plain_model

Shape = tuple[int, ...]


class FitHook(Hook):
    """Compares a checkpoint with the model that it is loaded into.

    MMEngine loads what fits, and warns of the rest. That is right for a training that starts from
    other weights, if anything fits; a test would measure weights that were never trained. What a
    resumed run is to fit, its runner checks.

    Args:
        testing: Whether the checkpoint is tested: then every parameter must be in it, and the test
            data must have the classes that it was trained on, where both are known.
    """

    priority = 'LOWEST'  # After hooks that change what is loaded.

    def __init__(self, testing: bool) -> None:
        self._testing = testing

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Called when a checkpoint was read, before the model loads it."""
        if self._testing:
            _check_classes(runner, checkpoint)
        elif runner._resume:
            return
        model = plain_model(runner.model)
        model = model.module if isinstance(model, BaseTTAModel) else model
        check_when_loaded(model, checkpoint, runner._load_from, partly=not self._testing)


def check_when_loaded(
    model: nn.Module, checkpoint: Mapping[str, Any], path: str, partly: bool = False
) -> None:
    """Let a model raise OptionError when it next loads a checkpoint that does not fit it.

    The check is made by what loads, since a model may rename what is in a checkpoint.

    Args:
        model: The model, which loads ``checkpoint`` next.
        checkpoint: The checkpoint.
        path: Its name.
        partly: Whether it fits if any parameter does.
    """
    shapes = {
        name.removeprefix('module.'): tuple(value.shape)
        for name, value in checkpoint.get('state_dict', checkpoint).items()
        if hasattr(value, 'shape')
    }

    def loaded(module: nn.Module, keys: Any) -> None:
        handle.remove()
        _check_tensors(module, set(keys.missing_keys), shapes, path, partly)

    handle = model.register_load_state_dict_post_hook(loaded)  # type: ignore[no-untyped-call]


def _check_classes(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuse test data of other classes than those in the metadata of a checkpoint."""
    loop = runner.test_loop
    dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    classes = _classes(getattr(dataset, 'metainfo', None))
    trained = _classes((checkpoint.get('meta') or {}).get('dataset_meta'))
    if classes and trained and not isinstance(loop, ProbeLoop):  # It fits to classes of its own.
        key, other = 'test_dataloader.dataset', f'checkpoint {runner._load_from!r}'
        check_same_classes(key, classes, other, trained)


def _classes(metainfo: Any) -> Optional[tuple[str, ...]]:
    """Names of classes; None where they are not known."""
    if not isinstance(metainfo, Mapping):
        return None
    classes = metainfo.get('classes', metainfo.get('CLASSES'))  # Capitals: MMDetection 2.
    return tuple(classes) if isinstance(classes, (tuple, list)) else None


def _check_tensors(
    model: nn.Module, missing: set[str], saved: Mapping[str, Shape], path: str, partly: bool
) -> None:
    """Raise OptionError if parameters of a model were ``missing``, or have other shapes."""
    own = {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and not is_lazy(value)
    }
    # A model may leave a part of its own out of its state dict.
    parameters = [name for name, _ in model.named_parameters() if name in own]
    lacking = [name for name in parameters if name in missing]
    other = [name for name, shape in own.items() if saved.get(name, shape) != shape]
    if partly and not {*parameters} <= {*lacking, *other}:
        return
    if lacking:
        counts = f'{len(lacking)} of {len(parameters)} parameters, such as {lacking[0]!r}'
        problem = f'got one without {counts}'
    elif other:
        problem = f'got {other[0]!r} of shape {saved[other[0]]} and not {own[other[0]]}'
    else:
        return
    raise OptionError(
        f'checkpoint {path!r} must have the parameters of {type(model).__name__}, {problem}; use '
        f'the config that it was trained with, or take one network out of a training checkpoint '
        f'with tools/publish_teacher.py'
    )
