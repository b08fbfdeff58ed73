# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint is of the model and of the data that it is loaded for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner
from torch import nn
from torch.nn.parameter import is_lazy

from se_mm.datasets.class_checks import check_same_classes
from se_mm.evaluation.probe_loop import ProbeLoop
from se_mm.smoothing.options import OptionError
from se_mm.teachers import plain_model


class FitHook(Hook):
    """Compares a checkpoint with the model that it is loaded into.

    MMEngine loads what fits, and warns of the rest. That is right for a training that starts from
    other weights, if anything fits; a test would measure weights that were never trained. What a
    resumed run is to fit, its runner checks.

    Args:
        testing: Whether the checkpoint is tested: then every parameter must be in it, and the test
            data must have the classes that it was trained on, where both are known.

    Raises:
        OptionError: When the checkpoint is loaded, if it does not fit.
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
        saved = checkpoint.get('state_dict', checkpoint)
        shapes = {
            name.removeprefix('module.'): tuple(value.shape)
            for name, value in saved.items()
            if hasattr(value, 'shape')
        }

        def loaded(module: nn.Module, keys: Any) -> None:
            # Called by what loads: a model may rename what is in a checkpoint.
            handle.remove()
            _check_tensors(module, keys.missing_keys, shapes, self._testing, runner._load_from)

        handle = model.register_load_state_dict_post_hook(loaded)


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
    model: nn.Module,
    missing: Iterable[str],
    saved: Mapping[str, tuple[int, ...]],
    all_of_them: bool,
    path: str,
) -> None:
    """Refuse a checkpoint that lacks parameters of a model.

    Args:
        model: The model, loaded.
        missing: Names of its tensors that were not in the checkpoint.
        saved: Shapes in the checkpoint.
        all_of_them: Whether all parameters must be in it; otherwise one is enough.
        path: Name of the checkpoint.

    Raises:
        OptionError: If they are not.
    """
    kind, missing = type(model).__name__, set(missing)
    own = model.state_dict()  # A model may leave a part of its own out of it.
    parameters = {
        name: tuple(value.shape)
        for name, value in model.named_parameters()
        if name in own and not is_lazy(value)
    }
    lacking = [name for name in parameters if name in missing]
    others = {name: saved.get(name, shape) for name, shape in parameters.items()}
    other = [name for name, shape in parameters.items() if others[name] != shape]
    if not parameters or (not all_of_them and len(lacking) + len(other) < len(parameters)):
        return
    if lacking:
        counts = f'{len(lacking)} of {len(parameters)} parameters, such as {lacking[0]!r}'
        problem = f'got one without {counts}'
    elif other:
        name = other[0]
        problem = f'got {name!r} of shape {others[name]} and not {parameters[name]}'
    else:
        return
    raise OptionError(
        f'checkpoint {path!r} must have the parameters of {kind}, {problem}; '
        f'{_advice(lacking, saved)}'
    )


def _advice(lacking: Iterable[str], saved: Iterable[str]) -> str:
    """What to do about parameters that a checkpoint lacks."""
    lacking, saved = set(lacking), set(saved)
    parts = {name.partition('.')[0] for name in saved if name.partition('.')[2] in lacking}
    if parts:
        return (
            f'it is of a training, and has them in {" and ".join(sorted(parts))}: take one out '
            f'with tools/publish_teacher.py'
        )
    if any(name.partition('.')[2] in saved for name in lacking):
        return 'it has one network alone: use the config of that network, or a training checkpoint'
    return 'use the config that it was trained with'
