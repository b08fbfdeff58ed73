# SPDX-License-Identifier: Apache-2.0
"""Training with several processes, or in mixed precision, where there is no GPU."""

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

from se_mm.engine.resumable_runner import ResumableRunner
from se_mm.smoothing.options import check_choice


class CPURunner(ResumableRunner):
    """A Runner whose processes talk by gloo and whose models are on the CPU.

    MMEngine's own asks for CUDA devices at three places: when it opens the process group, in the
    arguments of DDP, and for a synchronised batch norm. The config stays as it is. Batch norm takes
    the statistics of each rank's own batch; its names in a checkpoint are the same.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Open the process group, where the launcher made several processes.

        Called first of all by the constructor.
        """
        if self.distributed and not is_distributed():
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: Optional[dict], model: nn.Module) -> nn.Module:
        """Wrap the model for several processes.

        Called once the model is built, before its weights are initialised or loaded.
        """
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
        self.logger.info('No GPU: the ranks talk by gloo, and SyncBN becomes BN on each.')
        return super().wrap_model(wrapper, revert_sync_batchnorm(model))


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Automatic mixed precision on the CPU, where bfloat16 needs no scaling of the loss.

    MMEngine's ``AmpOptimWrapper`` refuses to be made without a GPU; the tools take this one then.

    Args:
        dtype: ``'bfloat16'``, the only one that is of use there.
        loss_scale: Not used; there for a config of a GPU to fit.
        **options: Those of :class:`mmengine.optim.OptimWrapper`.

    Raises:
        OptionError: If another dtype is asked for.
    """

    def __init__(
        self, dtype: Optional[str] = 'bfloat16', loss_scale: Any = None, **options: Any
    ) -> None:
        check_choice('optim_wrapper.dtype', dtype or 'bfloat16', ('bfloat16',))
        super().__init__(**options)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Let the forward pass run in mixed precision. Called around it."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield
