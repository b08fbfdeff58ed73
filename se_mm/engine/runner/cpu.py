# SPDX-License-Identifier: Apache-2.0
"""Distributed and mixed-precision training without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

import torch
from mmengine.dist import is_distributed
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from se_mm.engine.runner.resumable_runner import ResumableRunner
from se_mm.smoothing.options import check_choice


class CPURunner(ResumableRunner):
    """A ResumableRunner for distributed training on CPUs, with gloo.

    Batch norm uses the statistics of each rank's own batch; its names in a checkpoint stay the
    same. The config is not changed.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Initialise the process group, by gloo. Called first by the constructor."""
        if self.distributed and not is_distributed():
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: Optional[dict], model: nn.Module) -> nn.Module:
        """Wrap the model in DDP. Called before its weights are initialised or loaded."""
        if not self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        self.cfg.pop('sync_bn', None)
        wrapper: dict[str, Any] = {
            'type': 'MMDistributedDataParallel',
            'find_unused_parameters': self.cfg.get('find_unused_parameters', False),
            'broadcast_buffers': False,
            **(model_wrapper_cfg or {}),
            'device_ids': None,
        }
        self.logger.info('No GPU: using gloo, and BN in place of SyncBN.')
        return super().wrap_model(wrapper, revert_sync_batchnorm(model))


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Automatic mixed precision on the CPU, in bfloat16.

    The tools use it where there is no GPU, which MMEngine's ``AmpOptimWrapper`` requires.

    Args:
        dtype: ``'bfloat16'`` or None.
        loss_scale: Ignored, since bfloat16 needs none; accepted so that a GPU's config works.
        **options: Those of :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(self, dtype: Optional[str] = None, loss_scale: Any = None, **options: Any) -> None:
        check_choice('optim_wrapper.dtype', dtype or 'bfloat16', ('bfloat16',))
        super().__init__(**options)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass in mixed precision."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield
