# SPDX-License-Identifier: Apache-2.0
"""Try the validation on a few images before training, and check the names of its metrics."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sized
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from itertools import islice
from types import SimpleNamespace
from typing import Any, Optional, cast

import torch
from mmengine.evaluator import BaseMetric, DumpResults, Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner, ValLoop
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from se_mm.datasets.class_checks import listed
from se_mm.engine.hooks import SpatialEnsembleHook
from se_mm.engine.runner.resume_hooks import monitored
from se_mm.evaluation.evaluation_loop import EvaluationLoop
from se_mm.evaluation.probe_loop import ProbeLoop
from se_mm.evaluation.teacher_student_loop import TeacherStudentLoop
from se_mm.rng import rng_untouched
from se_mm.smoothing.options import OptionError, did_you_mean

LEAST, MOST = 4, 32
"""Images tried on each rank: a batch, but at least ``LEAST`` and at most ``MOST``."""
_WHOLE = ('BaseVideoMetric', 'CocoPanopticMetric', 'PoseTrack18Metric', 'ReIDMetrics')
"""Metrics of mmdet and mmpose that fail unless they see all images."""
_LIBRARIES = ('mmengine.', 'mmpretrain.', 'mmdet.', 'se_mm.')


class TrialHook(Hook):
    """Validates on a few images before the first iteration.

    Faults in the data, the pipeline or the evaluator of the validation then end the run at once. So
    does a missing metric that checkpoints, early stopping or a learning rate depend on. Errors of
    the dataset, the model and the metrics are passed on. Training is not affected, see
    :func:`try_validation`.
    """

    priority = 'VERY_LOW'  # After the teacher's hook, before what may validate when resuming.

    def before_train(self, runner: Runner) -> None:
        """Try the validation. Called after the weights are initialised, loaded or resumed."""
        begin = getattr(runner.train_loop, 'val_begin', 0)
        if runner.val_loop is None or begin > max(runner.max_iters, runner.max_epochs):
            return
        try:
            metrics = try_validation(runner)
        except OptionError:
            raise
        except Exception:
            runner.logger.error(
                'the trial validation on a few images failed with the following error; --no-check '
                'skips it'
            )
            raise
        if metrics is None:
            runner.logger.info('this validation cannot be tried on a few images before training')
            return
        if metrics:
            check_monitors(runner, metrics)
        names = listed([*metrics]) or 'none, so monitored metrics were not checked'
        runner.logger.info(f'trial validation on a few images passed; its metrics: {names}')


def try_validation(runner: Runner) -> Optional[dict[str, float]]:
    """Validate on a few images without any effect on the run.

    All ranks must call this. The images are spread over the data set and read in this process. The
    random generators, the modes and buffers of the model, the evaluator, the log and the hooks are
    restored. Only hooks that prepare the model for a validation are called, not those that log,
    save or decide.

    Returns:
        The metrics, with meaningless values; empty if the images give none, for example if a
        detector detects nothing. None: the validation cannot be tried.
    """
    loop = runner.val_loop
    if not isinstance(loop, (ValLoop, EvaluationLoop)):
        return None
    with rng_untouched(), _untouched(runner):
        trial = _shortened(loop)
        if trial is None:
            return None
        keep = _Keep()
        # A hook may call the runner's loop to validate once more.
        runner._val_loop = trial
        runner._hooks = [*filter(_prepares, runner.hooks), keep]
        # COCO's evaluation prints tables. Other output, such as a debugger's, is kept.
        prints = any(_annotations(metric) for metric in trial.evaluator.metrics)
        with redirect_stdout(StringIO()) if prints else nullcontext():
            trial.run()
    return keep.metrics


def check_monitors(runner: Runner, metrics: dict[str, float]) -> None:
    """Raise OptionError for a monitored metric that the validation does not have."""
    for key, name in monitored(runner):
        if name == 'auto' or name in metrics:
            continue
        message = (
            f'{key} must be a metric of the validation, {listed([*metrics])}, got {name!r}.'
            f'{did_you_mean(name, metrics)}'
        )
        if not any(_may_add_metrics(hook) for hook in runner.hooks):
            raise OptionError(message)
        runner.logger.warning(f'{message} The run will fail unless a hook adds it')


def _may_add_metrics(hook: Hook) -> bool:
    """Return whether it is a user's hook that is not called and may add metrics."""
    is_ours = type(hook).__module__.startswith(_LIBRARIES)
    return not is_ours and not _prepares(hook) and 'after_val_epoch' in hook.get_triggered_stages()


def _prepares(hook: Hook) -> bool:
    """Return whether a hook prepares the model for a validation, rather than logs or saves."""
    if isinstance(hook, (SpatialEnsembleHook, EMAHook)):
        return True
    stages = {'before_val', 'before_val_epoch'} & {*hook.get_triggered_stages()}
    return bool(stages) and not type(hook).__module__.startswith('mmengine.')


class _Keep(Hook):
    """Collects the metrics of a validation, which some loops do not return. Called last."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        self.metrics.update(metrics or {})


@contextmanager
def _untouched(runner: Runner) -> Iterator[None]:
    """Restore all that a validation changes, except the random generators."""
    modules = list(runner.model.modules())
    modes = [module.training for module in modules]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    hub, logger = runner.message_hub, runner.logger
    kept = {name: vars(hub)[name] for name in ('_log_scalars', '_runtime_info', '_resumed_keys')}
    hooks, loop, level = runner._hooks, runner._val_loop, logger.level
    states = [vars(hook).copy() for hook in hooks]
    try:
        vars(hub).update({name: copy.copy(value) for name, value in kept.items()})
        hub._log_scalars = copy.deepcopy(kept['_log_scalars'])
        logger.setLevel(logging.CRITICAL)  # Results on a few images would be misleading.
        yield
    finally:
        logger.setLevel(level)
        vars(hub).update(kept)
        runner._hooks, runner._val_loop = hooks, loop
        for hook, state in zip(hooks, states, strict=True):
            if isinstance(hook, SpatialEnsembleHook):
                hook.updater.restore_statistics()
            vars(hook).clear()
            vars(hook).update(state)
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _shortened(loop: Any) -> Optional[Any]:
    """Return a copy of a loop that reads a few images; None if that is impossible."""
    trial = copy.copy(loop)
    trial.dataloader = _few_images(loop.dataloader)
    kinds = {kind.__name__ for one in loop.evaluator.metrics for kind in type(one).__mro__}
    if trial.dataloader is None or kinds & {*_WHOLE}:
        return None
    try:
        if isinstance(loop, TeacherStudentLoop):
            trial.evaluators = {who: _copied(one) for who, one in loop.evaluators.items()}
        else:
            trial.evaluator = _copied(loop.evaluator)
    except Exception:  # A metric may contain objects that cannot be copied, such as open files.
        return None
    if isinstance(loop, ProbeLoop):
        classes = (getattr(loop.dataloader.dataset, 'metainfo', None) or {}).get('classes')
        trial.bank = _few_images(loop.bank)
        if trial.bank is None or not classes:
            return None
        trial.probes = [_no_probe(probe.name, len(classes)) for probe in loop.probes]
    return trial


def _no_probe(name: str, num_classes: int) -> SimpleNamespace:
    """Return a stand-in for a probe, which cannot be fitted to images of a few classes."""

    def scores(features: Tensor) -> Tensor:
        return torch.full((len(features), num_classes), 1 / num_classes)

    return SimpleNamespace(name=name, fit=lambda features, labels: None, scores=scores)


def _few_images(loader: DataLoader) -> Optional[DataLoader]:
    """Return a loader of a few images of a loader, without workers; None if it has no indices."""
    batches, dataset = loader.batch_sampler, loader.dataset
    if batches is None or isinstance(dataset, IterableDataset):
        return None
    if type(batches) is not BatchSampler:
        chosen = list(islice(batches, 1))
        return DataLoader(dataset, batch_sampler=chosen, collate_fn=loader.collate_fn)
    share = list(islice(loader.sampler, len(cast(Sized, dataset))))
    count = min(max(batches.batch_size, LEAST), MOST)
    # Spread over the data set, which is often sorted by class.
    share = share[:: max(1, len(share) // count)][:count]
    return DataLoader(dataset, batches.batch_size, sampler=share, collate_fn=loader.collate_fn)


def _copied(evaluator: Evaluator) -> Evaluator:
    """Copy an evaluator without metrics that write predictions; annotations are shared."""
    metrics = [metric for metric in evaluator.metrics if not isinstance(metric, DumpResults)]
    memo = {id(part): part for metric in metrics for part in _annotations(metric)}
    copied = copy.copy(evaluator)
    copied.metrics = [copy.deepcopy(metric, memo) for metric in metrics]
    return copied


def _annotations(metric: BaseMetric) -> list[Any]:
    """Return the annotations in COCO's format that a metric has read."""
    return [part for part in vars(metric).values() if hasattr(part, 'loadRes')]
