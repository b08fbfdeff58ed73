# SPDX-License-Identifier: Apache-2.0
"""Report what a config would update and how, without its data, a GPU or its weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from se_mm.datasets.detection_checks import check_detection_classes, check_evaluator_file
from se_mm.engine.hooks import SpatialEnsembleHook
from se_mm.engine.hooks.run_length import check_begin, count_updates
from se_mm.rng import rng_untouched
from se_mm.smoothing import Rule, Settings
from se_mm.smoothing.options import OptionError, did_you_mean
from se_mm.smoothing.units import TensorPair, Units
from se_mm.teachers import Updater, candidates, plain_model

_LATE = 10**12  # An update at which every schedule has reached its last value.


@dataclass(frozen=True)
class Group:
    """Tensors that are updated in the same way."""

    source: str  # What determines it: "default", "overrides['norm']" or "buffers='copy'".
    how: str  # In words.
    names: tuple[str, ...]  # Of the tensors in the student.
    units: int  # 0 if nothing is picked.
    numbers: int  # Elements of the tensors.
    bytes: int  # Of the teacher.
    # Expected age in updates of a unit, at the first and at the last update. None: nothing is
    # smoothed, or the average is unknown.
    horizon: Optional[tuple[float, float]]

    def __str__(self) -> str:
        size = f'{len(self.names)} tensors, {self.numbers:,} numbers, {self.bytes:,} bytes'
        units = f', {self.units:,} units' if self.units else ''
        horizon = ''
        if self.horizon is not None:
            first, last = (f'{value:,.4g}' for value in self.horizon)
            horizon = f'; horizon {first} updates' + (f' to {last}' if last != first else '')
        return f'{self.source}: {size}{units}: {self.how}{horizon}'


@dataclass(frozen=True)
class Report:
    """What a run would update and how. Without a hook of ours there are no groups and no rule."""

    model: str  # Its class.
    hook: str  # Its class.
    lines: tuple[str, ...]  # What the hook will do, and its cautions.
    groups: tuple[Group, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)  # Other options of the hook.
    updates: Optional[int] = None  # Opportunities for an update. None: unknown without the data.
    rule: Optional[Rule] = None  # Of tensors without an override.
    kind: str = ''  # Of the teacher.

    def __str__(self) -> str:
        what, *cautions = self.lines
        lines = [f'model: {self.model}', f'teacher: {what}', f'hook: {self.hook}']
        lines += [f'{name}: {text}' for name, text in self.settings.items()]
        if self.groups:
            unknown = 'unknown, since the length of an epoch depends on the data'
            lines.append(f'updates: {unknown if self.updates is None else f"{self.updates:,}"}')
        for group in self.groups:
            lines.append(str(group))
            if group.source.startswith('overrides'):
                lines += [f'  {name}' for name in group.names]
        return '\n'.join([*lines, *(f'caution: {caution}' for caution in cautions)])


def check_config(cfg: Config) -> Report:
    """Bind the teacher of a config without loading data, and report what would be updated.

    The config, the global random generators and the registries' scopes are not changed.

    Raises:
        OptionError: If an option of ours is invalid or does not fit the model, or the teacher would
            never be updated.
    """
    check_detection_classes(cfg)
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine')
    with rng_untouched(), scope, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # The model's are shown when it is built for training.
        hooks = hook_classes(cfg)
        entries = [entry for entry, kind in hooks if issubclass(kind, SpatialEnsembleHook)]
        # Built before the model, so that an invalid option is found first.
        hook = _build(entries[0]) if entries else None
        model = _build_model(cfg)
        if hook is not None:
            others = [kind for entry, kind in hooks if entry is not entries[0]]
            return _report(hook, model, cfg, others)
        found = [f'{path} ({kind.kind})' for path, kind in candidates(model, Settings()).items()]
        return Report(type(model).__name__, 'none of se_mm', (', '.join(found) or 'no teacher',))


def check_runner(runner: Runner) -> None:
    """Check the classes of a run that is about to train, and bind its teacher.

    Raises:
        OptionError: If classes differ, or an option of ours does not fit the model.
    """
    check_detection_classes(runner.cfg)
    check_evaluator_file(runner.cfg, 'val')
    for hook in runner.hooks:
        if isinstance(hook, SpatialEnsembleHook):
            hook.bind(plain_model(runner.model))


def hook_classes(cfg: Config) -> list[tuple[Any, type]]:
    """Config and class of each custom hook that exists.

    Raises:
        OptionError: If an unknown name is similar to one of ours.
    """
    kinds = []
    for entry in cfg.get('custom_hooks') or ():
        kind = entry.get('type') if isinstance(entry, Mapping) else type(entry)
        if isinstance(kind, str):
            name = kind
            with HOOKS.switch_scope_and_registry(entry.get('_scope_')) as registry:
                kind = registry.get(name)
            hint = did_you_mean(name, ['SETMAHook', 'SpatialEnsembleHook'])
            if kind is None and hint:
                raise OptionError(f'custom_hooks has an unknown type={name!r}.{hint}')
        if isinstance(kind, type):
            kinds.append((entry, kind))
    return kinds


def _report(
    hook: SpatialEnsembleHook, model: nn.Module, cfg: Config, others: Iterable[type]
) -> Report:
    """Bind a hook to a model, and report what it does. ``others`` are classes of other hooks."""
    updater = hook.bind(model)
    settings = hook.settings
    hook.check_other_hooks(others)
    # Before the data loader is built, a run by iterations counts as one epoch.
    iters = cfg.train_cfg.get('max_iters')
    check_begin(settings, iters, cfg.train_cfg.get('max_epochs') if iters is None else None)
    wrapper, updates = cfg.optim_wrapper, None
    if iters is not None and not settings.begin_epoch and 'optimizer' in wrapper:
        updates = count_updates(updater, int(iters), 1, int(wrapper.get('accumulative_counts', 1)))
    seed = (cfg.get('randomness') or {}).get('seed') if settings.seed is None else settings.seed
    unit = 'epoch' if settings.begin_epoch else 'iteration'
    return Report(
        model=type(model).__name__,
        hook=type(hook).__name__,
        lines=tuple(updater.describe()),
        groups=tuple(_groups(updater, updates)),
        settings={
            'interval': f'every {updater.interval} opportunities' if updater.interval > 1 else '1',
            'begin': f'{unit} {settings.begin_epoch or settings.begin_iter}',
            'seed': 'drawn when the run starts' if seed is None else str(seed),
            'buffers': updater.smoother.buffers,
        },
        updates=updates,
        rule=updater.with_momentum(settings.default),
        kind=updater.teacher.kind,
    )


def _build(entry: Any) -> Any:
    """Build a hook as the runner does."""
    entry = copy.deepcopy(entry)
    if not isinstance(entry, Mapping):
        return entry
    return HOOKS.build({key: value for key, value in entry.items() if key != 'priority'})


def _build_model(cfg: Config) -> nn.Module:
    """Build the model of a config on the meta device if possible, otherwise on the CPU."""
    model = copy.deepcopy(cfg.model)
    if isinstance(cfg.get('data_preprocessor'), Mapping) and isinstance(model, MutableMapping):
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    if isinstance(model, nn.Module):
        return model
    try:
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(model))
    except OptionError:
        raise
    except Exception:  # Some constructors read the values of their tensors.
        return MODELS.build(model)


def _groups(updater: Updater, updates: Optional[int]) -> Iterator[Group]:
    """The tensors of a teacher, grouped by the option that determines how they are updated."""
    smoother, settings = updater.smoother, updater.ensemble.settings
    words = {'copy': 'copied at every update', 'skip': 'unchanged after the first update'}
    groups: dict[tuple[str, str], tuple[Optional[Rule], list[TensorPair]]] = {}
    for member, pair in smoother.pairs.items():
        part, own = settings.part_of(member.name), member.rule
        if not member.is_parameter and not isinstance(settings.rule_of(member.name), str):
            source = f'buffers={smoother.buffers!r}'
        else:
            source = 'default' if part is None else f'overrides[{part!r}]'
        rule, how = (None, words[own]) if isinstance(own, str) else (own, str(own))
        groups.setdefault((source, how), (rule, []))[1].append(pair)
    for (source, how), (rule, pairs) in sorted(groups.items(), key=lambda g: g[0][0] != 'default'):
        filled = [pair for pair in pairs if pair.teacher.numel()]
        yield Group(
            source=source,
            how=how,
            names=tuple(pair.name for pair in pairs),
            units=0 if rule is None else len(Units(filled, rule.granularity)),
            numbers=sum(pair.teacher.numel() for pair in pairs),
            bytes=sum(pair.teacher.numel() * pair.teacher.element_size() for pair in pairs),
            horizon=None if rule is None else _horizon(updater.with_momentum(rule), updates),
        )


def _horizon(rule: Rule, updates: Optional[int]) -> Optional[tuple[float, float]]:
    """Expected horizon in updates, ``1 / (momentum (1 - keep_prob))``, at both ends of the run."""
    if rule.momentum is None:
        return None
    total = _LATE if updates is None else max(1, updates)
    ends = []
    for step in (0, total):
        weight = rule.average(step, total)
        assert not callable(weight)
        share = (1.0 if weight is None else weight) * (1 - rule.keep_prob(step, total))
        ends.append(1 / share if share > 0 else math.inf)
    return ends[0], ends[1]
