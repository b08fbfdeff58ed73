# SPDX-License-Identifier: Apache-2.0
"""Recompute a teacher's batch-norm statistics on training batches: ``buffers='recalibrate'``.

As ``torch.optim.swa_utils.update_bn``, but on a copy of the model, so that nothing else in the run
changes: no mode, no other buffer, no random generator, no order of data.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor, nn

from se_mm.rng import rng_untouched, seed_all
from se_mm.smoothing.options import OptionError
from se_mm.smoothing.settings import COPY
from se_mm.smoothing.tensors import STATISTICS, named_tensors, slots
from se_mm.teachers import Shadow, Updater, plain_model

_RECALIBRATION = 4  # The purpose of a seed: see engine/runner/keyed_data.py.


def check_recalibration(updater: Updater, runner: Runner) -> None:
    """Raise OptionError if there are no training batches, or the student is not known."""
    check_batches(runner)
    if updater.teacher.student is None:
        raise OptionError(
            f'student must be set for the teacher {updater.teacher.path!r} with '
            f"buffers='recalibrate': set it, or buffers='copy'"
        )
    norms = _batch_norms(plain_model(runner.model), _copied_buffers(updater))
    if not norms:
        runner.logger.warning(
            "the teacher has no batch norm: buffers='recalibrate' does the same as 'copy'."
        )


def check_batches(runner: Runner) -> None:
    """Raise OptionError if a run has no config of training batches."""
    config = runner._train_dataloader
    if not isinstance(config, dict):
        given = 'none' if config is None else f'a {type(config).__name__}'
        raise OptionError(
            f"buffers='recalibrate' needs train_dataloader as a config, got {given}: add it, or "
            f"set buffers='copy'"
        )


@torch.no_grad()
def recalibrate(updater: Updater, runner: Runner) -> None:
    """Replace the running statistics of the teacher's batch norms until training continues.

    They become the means over ``recalibrate_batches`` training batches of each rank, always the
    same batches. The teacher replaces its student in a copy of the model, which computes the
    training loss, so it sees the student's images. Norms that are frozen in training or that no
    batch reaches do not change. All ranks must call this.
    """
    if updater.training_statistics:  # Nothing was trained since the last recalibration.
        return
    model, training = plain_model(runner.model), isinstance(runner._train_loop, BaseLoop)
    shadow = isinstance(updater.teacher, Shadow)
    if updater.started:
        tensors, names = updater.tensors(), _copied_buffers(updater)
        model = updater.teacher.module if shadow else model
    elif shadow and not training:  # A checkpoint's model is the teacher.
        model = model.module if isinstance(model, BaseTTAModel) else model
        tensors = named_tensors(model)
        names = tensors.keys()
    else:  # Before the first update, the teacher is its student.
        return
    if not _batch_norms(model, names):
        return
    begin = time.perf_counter()
    count = updater.ensemble.settings.recalibrate_batches
    seed = next(one for one in (updater.seed, runner.seed, 0) if one is not None)
    network = deepcopy(model)
    own = named_tensors(network)
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
    found = statistics(runner, network, names, count, seed)
    if updater.started:
        updater.training_statistics = {name: tensors[name].clone() for name in found}
    for name, value in found.items():
        tensors[name].copy_(value)
    runner.logger.info(
        f'recalibrated {len(found) // 2} batch norms of the teacher on up to {count} training '
        f'batches in {time.perf_counter() - begin:.1f} s.'
    )


def statistics(
    runner: Runner, network: Any, names: Collection[str], count: int, seed: int
) -> dict[str, Tensor]:
    """Batch-norm statistics over training batches of all ranks, always the same batches.

    Computes the buffers ``names`` over ``count`` batches of each rank. ``network`` is a copy of the
    runner's model, and is changed.
    """
    with rng_untouched():
        seed_all((seed, get_rank(), _RECALIBRATION))
        return _means(network, names, islice(_batches(runner, seed), count))


def _copied_buffers(updater: Updater) -> Collection[str]:
    """Names of the buffers that are copied from the student."""
    pairs = updater.smoother.pairs
    return {m.name for m in pairs if not m.is_parameter and m.rule == COPY}


def _batch_norms(model: nn.Module, names: Collection[str]) -> dict[str, Any]:
    """Batch norms, including SyncBN, with running statistics among ``names``, by dotted name."""
    return {
        name.rpartition('.')[0]: slot.owner
        for name, slot in slots(model).items()
        if name in names and slot.is_statistic
    }


def _batches(runner: Runner, seed: int) -> Iterator[Any]:
    """Training batches from a separate data loader, so that the loop's does not advance."""
    config: Any = runner._train_dataloader
    loop = runner._train_loop
    dataset = loop.dataloader.dataset if isinstance(loop, BaseLoop) else config['dataset']
    # The runner copies the dataset, so that a pipeline that keeps images is not changed either.
    config = {**config, 'dataset': dataset, 'persistent_workers': False}
    return iter(runner.build_dataloader(config, seed=seed))


def _means(network: Any, names: Collection[str], batches: Iterable[Any]) -> dict[str, Tensor]:
    """Means of the batches' statistics over all batches and ranks, by name."""
    network.train()  # The model freezes norms here.
    norms = {path: n for path, n in _batch_norms(network, names).items() if n.training}
    network.eval()
    for norm in norms.values():
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # The mean over all batches.
    for batch in batches if norms else ():
        network._run_forward(network.data_preprocessor(batch, True), mode='loss')
    found: dict[str, Tensor] = {}
    for path, norm in norms.items():
        mean, var, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
        assert mean is not None and var is not None and count is not None
        # In float64, so that on one rank the mean is exact.
        sums = torch.cat([mean, var, torch.ones_like(mean[:1])]).double() * count
        all_reduce(sums)
        if sums[-1] > 0:
            parts = (sums[:-1] / sums[-1]).chunk(2)
            found |= {f'{path}.{key}': part for key, part in zip(STATISTICS, parts)}
    return found
