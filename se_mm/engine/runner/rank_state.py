# SPDX-License-Identifier: Apache-2.0
"""What each rank of a run has for itself, which a checkpoint must keep.

Between two optimizer steps these are the accumulated gradients; on ranks other than the first also
the statistics of norms that are not synchronised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from mmengine.dist import get_rank, is_main_process
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from se_mm.teachers import plain_model

RANKS_KEY = 'ranks'
"""Where a checkpoint has it: a list with one entry for each rank."""
RankState = dict[str, dict[str, Tensor]]


def rank_state(runner: Runner) -> RankState:
    """What this rank has for itself."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    pending = any(isinstance(one, OptimWrapper) and not one.should_update() for one in wrappers)
    gradients = {
        name: parameter.grad.cpu()
        for name, parameter in plain_model(runner.model).named_parameters()
        if pending and parameter.grad is not None
    }
    buffers = {} if is_main_process() else {name: b.cpu() for name, b in statistics(runner)}
    return {'gradients': gradients, 'buffers': buffers}


def restore_rank(runner: Runner, ranks: Optional[list[RankState]]) -> None:
    """Restore what this rank had for itself when a checkpoint was saved."""
    if not ranks or get_rank() >= len(ranks):
        return
    own = ranks[get_rank()]
    for name, parameter in plain_model(runner.model).named_parameters():
        if name in own['gradients']:
            parameter.grad = own['gradients'][name].to(parameter)
    for name, buffer in statistics(runner):
        if name in own['buffers']:
            buffer.copy_(own['buffers'][name])


def statistics(runner: Runner) -> Iterator[tuple[str, Tensor]]:
    """Statistics of norms that are not synchronised, of the model and of a teacher beside it."""
    models = [('', plain_model(runner.model))]
    for hook in runner.hooks:
        outside = getattr(getattr(hook, 'teacher', None), 'outside', None)
        models += [] if outside is None else [('teacher.', outside)]
    for prefix, model in models:
        for path, module in model.named_modules():
            if isinstance(module, _NormBase) and not isinstance(module, nn.SyncBatchNorm):
                yield from module.named_buffers(f'{prefix}{path}', recurse=False)
