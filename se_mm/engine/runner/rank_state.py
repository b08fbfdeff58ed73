# SPDX-License-Identifier: Apache-2.0
"""What each rank of a run has for itself, which a checkpoint must keep.

Between two optimizer steps these are the accumulated gradients; on ranks other than the first also
the statistics of norms that are not synchronised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from mmengine.dist import gather_object, get_rank, get_world_size, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

RANKS_KEY = 'ranks'
"""Where a checkpoint has it: a list with one entry for each rank."""
RankState = dict[str, dict[str, Tensor]]


def plain_model(runner: Runner) -> nn.Module:
    """The model of a runner without its distributed wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def gather_ranks(runner: Runner) -> Optional[list[RankState]]:
    """The state of each rank, on rank 0; None on others, and in a run of one rank."""
    return gather_object(rank_state(runner), dst=0) if get_world_size() > 1 else None


def rank_state(runner: Runner) -> RankState:
    """What this rank has for itself."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    pending = any(isinstance(one, OptimWrapper) and not one.should_update() for one in wrappers)
    gradients = {
        name: parameter.grad.cpu()
        for name, parameter in plain_model(runner).named_parameters()
        if pending and parameter.grad is not None
    }
    buffers = {} if is_main_process() else {name: b.cpu() for name, b in statistics(runner)}
    return {'gradients': gradients, 'buffers': buffers}


def restore_rank(runner: Runner, ranks: Optional[list[RankState]]) -> None:
    """Restore what this rank had for itself when a checkpoint was saved."""
    if not ranks or get_rank() >= len(ranks):
        return
    own = ranks[get_rank()]
    for name, parameter in plain_model(runner).named_parameters():
        if name in own['gradients']:
            parameter.grad = own['gradients'][name].to(parameter)
    for name, buffer in statistics(runner):
        if name in own['buffers']:
            buffer.copy_(own['buffers'][name])


def statistics(runner: Runner) -> Iterator[tuple[str, Tensor]]:
    """Statistics of norms that are not synchronised, of the model and of a teacher beside it."""
    teachers = [getattr(hook, 'teacher', None) for hook in runner.hooks]
    outside = [getattr(teacher, 'outside', None) for teacher in teachers]
    for place, model in (('', plain_model(runner)), *(('teacher.', other) for other in outside)):
        for path, module in model.named_modules() if model is not None else ():
            if isinstance(module, _NormBase) and not isinstance(module, nn.SyncBatchNorm):
                yield from module.named_buffers(f'{place}{path}', recurse=False)
