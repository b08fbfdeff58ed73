# SPDX-License-Identifier: Apache-2.0
"""Check that a linear evaluation starts from the pretrained weights, and not from random ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import PretrainedInit
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from torch import Tensor, nn

from se_mm.smoothing.options import OptionError
from se_mm.teachers import plain_model


@HOOKS.register_module()
class PretrainedCheckHook(Hook):
    """Stop before training unless every ``Pretrained`` init_cfg loads all tensors of its module.

    MMEngine loads such checkpoints with ``strict=False``: if names or shapes differ, the module
    keeps its random weights with only a warning.
    """

    def before_run(self, runner: Runner) -> None:
        """Compare modules with their checkpoints, before the weights are initialised.

        Raises:
            OptionError: If a checkpoint cannot be read or lacks a tensor of its module.
        """
        if not isinstance(runner._train_loop, BaseLoop):  # A validation or a test.
            return
        for name, module in plain_model(runner.model).named_modules():
            configs = getattr(module, 'init_cfg', None) or []
            for config in [configs] if isinstance(configs, Mapping) else configs:
                if config['type'] in ('Pretrained', PretrainedInit):
                    _check('.'.join(filter(None, ('model', name, 'init_cfg'))), config, module)


def _check(key: str, config: Mapping[str, Any], module: nn.Module) -> None:
    path, prefix = config['checkpoint'], config.get('prefix') or ''
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        held = checkpoint.get('state_dict', checkpoint)
    except Exception as error:  # A file that is not a checkpoint can raise anything.
        reason = str(error).strip().split('\n')[0] or type(error).__name__
        raise OptionError(
            f'{key}.checkpoint must be a readable checkpoint, got {path!r}: {reason}'
        ) from error
    # Old checkpoints lack this counter of BatchNorm, which is not needed.
    wanted = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if not name.endswith('num_batches_tracked')
    }
    # As MMEngine: add a dot; without a prefix, drop that of DistributedDataParallel.
    prefixes = [f'{prefix.rstrip(".")}.'] if prefix else ['', 'module.']
    missing = min((_missing(wanted, held, some) for some in prefixes), key=len)
    if missing:
        first = next(iter(wanted))
        others = [name[: -len(first)] for name in held if name.endswith(first)]
        fitting = [repr(other) for other in others if not _missing(wanted, held, other)]
        hint = (
            f'prefixes that fit: {", ".join(fitting)}'
            if fitting
            else 'no prefix in the checkpoint fits'
        )
        raise OptionError(
            f'{key}.prefix must name the module in {path}, got {prefix!r}: {len(missing)} of '
            f'{len(wanted)} tensors are missing or have another shape, such as {missing[0]!r}; '
            f'{hint}'
        )


def _missing(wanted: Mapping[str, Tensor], held: Mapping[str, Any], prefix: str) -> list[str]:
    """Return the tensors that are missing under the prefix, or have another shape there."""
    return [
        name
        for name, tensor in wanted.items()
        if getattr(held.get(prefix + name), 'shape', None) != tensor.shape
    ]
