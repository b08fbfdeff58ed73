# SPDX-License-Identifier: Apache-2.0
"""Check that a checkpoint fits the model and the data that it is loaded for."""

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
    """Compares a checkpoint with the model that loads it.

    MMEngine loads what fits, and warns of the rest. A training that starts from other weights needs
    something to fit, a test everything. For a resumed run, the runner checks it.

    Args:
        testing: Whether the checkpoint is tested: then it must contain every parameter, and the
            test data must have the classes that it was trained on, if both are known.
    """

    priority = 'LOWEST'  # After hooks that change what is loaded.

    def __init__(self, testing: bool) -> None:
        self._testing = testing

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check a checkpoint that was read and is loaded next."""
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
    """Let a model raise OptionError when it loads a checkpoint that does not fit it.

    The check runs after loading, since a model may rename tensors of a checkpoint while loading.

    Args:
        model: The model.
        checkpoint: The checkpoint that it loads next.
        path: Name of the checkpoint, for the message.
        partly: Whether a single parameter that fits is enough.
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
    """Reject test data whose classes differ from those in the metadata of a checkpoint."""
    loop = runner.test_loop
    dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    classes = _classes(getattr(dataset, 'metainfo', None))
    trained = _classes((checkpoint.get('meta') or {}).get('dataset_meta'))
    # A ProbeLoop fits its probes to the classes of its own bank.
    if classes and trained and not isinstance(loop, ProbeLoop):
        key, other = 'test_dataloader.dataset', f'checkpoint {runner._load_from!r}'
        check_same_classes(key, classes, other, trained)


def _classes(metainfo: Any) -> Optional[tuple[str, ...]]:
    """Return the names of classes; None if they are not known."""
    if not isinstance(metainfo, Mapping):
        return None
    classes = metainfo.get('classes', metainfo.get('CLASSES'))  # Capitals: MMDetection 2.
    return tuple(classes) if isinstance(classes, (tuple, list)) else None


def _check_tensors(
    model: nn.Module, missing: set[str], saved: Mapping[str, Shape], path: str, partly: bool
) -> None:
    """Raise OptionError if parameters of a model are ``missing``, or saved with other shapes."""
    own = {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and not is_lazy(value)
    }
    # A model may exclude parameters from its state dict.
    parameters = [name for name, _ in model.named_parameters() if name in own]
    lacking = [name for name in parameters if name in missing]
    other = [name for name, shape in own.items() if saved.get(name, shape) != shape]
    if partly and not {*parameters} <= {*lacking, *other}:
        return
    if lacking:
        counts = f'{len(lacking)} of {len(parameters)} parameters, such as {lacking[0]!r}'
        problem = f'got one without {counts}'
    elif other:
        problem = f'got {other[0]!r} with shape {saved[other[0]]} instead of {own[other[0]]}'
    else:
        return
    raise OptionError(
        f'checkpoint {path!r} must have the parameters of {type(model).__name__}, {problem}; use '
        f'the config that it was trained with, or extract one network from a training checkpoint '
        f'with tools/publish_teacher.py'
    )
