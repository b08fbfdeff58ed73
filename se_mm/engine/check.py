# SPDX-License-Identifier: Apache-2.0
"""Report what a config would update and how, without its data, a GPU or its weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from se_mm.datasets.detection_checks import check_detection_classes, check_evaluator_file
from se_mm.engine.hooks import SpatialEnsembleHook
from se_mm.engine.hooks.run_length import check_begin, check_interval, count_updates
from se_mm.rng import rng_untouched
from se_mm.smoothing import Rule, Schedule, Settings
from se_mm.smoothing.options import OptionError, did_you_mean
from se_mm.smoothing.units import TensorPair, Units
from se_mm.teachers import Mover, candidates, plain_model

_LATE = 10**12  # An update at which a schedule without an end has reached its value.


@dataclass(frozen=True)
class Group:
    """The tensors that are updated in one way.

    Its horizon is how many updates a number of the teacher is expected to reach back, at the first
    and at the last update.
    """

    source: str  # The option that says so: "default", "overrides['norm']" or "buffers='copy'".
    how: str  # In words.
    names: tuple[str, ...]  # Of the tensors in the student.
    units: int  # That they split into; 0 where nothing is picked.
    numbers: int  # That they have.
    bytes: int  # Of the teacher.
    horizon: Optional[tuple[float, float]]  # None: nothing is smoothed, or the average is unknown.

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
    """What a run would update and how. Without a hook of ours it has no groups, and no rule."""

    model: str  # Its class.
    hook: str  # Its class, or what else moves the teacher.
    lines: tuple[str, ...]  # What the hook says it will do, its cautions included.
    groups: tuple[Group, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)  # The hook's other options in force.
    updates: Optional[int] = None  # Opportunities for one; None: not known without the data.
    rule: Optional[Rule] = None  # Of tensors without an override, with the model's own momentum.
    kind: str = ''  # Of its teacher.

    def __str__(self) -> str:
        what, *cautions = self.lines
        lines = [f'model: {self.model}', f'teacher: {what}', f'hook: {self.hook}']
        lines += [f'{name}: {text}' for name, text in self.settings.items()]
        if self.groups:
            unknown = 'not known without the data, whose size makes the length of an epoch'
            lines.append(f'updates: {unknown if self.updates is None else f"{self.updates:,}"}')
        for group in self.groups:
            lines.append(str(group))
            if group.source.startswith('overrides'):
                lines += [f'  {name}' for name in group.names]
        return '\n'.join([*lines, *(f'caution: {caution}' for caution in cautions)])


def check_config(cfg: Config) -> Report:
    """Bind the teacher of a config without loading data, and report what would be updated.

    The config of a training, global random generators and registries' scopes stay as they are.

    Raises:
        OptionError: If an option of ours is invalid or does not fit the model, or its teacher would
            never be updated.
    """
    check_detection_classes(cfg)
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine')
    with rng_untouched(), scope, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Those of the model come when it is built to be trained.
        # An invalid option need not wait for the model.
        hooks = [
            _build(entry) if issubclass(kind, SpatialEnsembleHook) else kind
            for entry, kind in hook_classes(cfg)
        ]
        seed = (cfg.get('randomness') or {}).get('seed')
        return _report(hooks, _build_model(cfg), cfg, seed)


def check_runner(runner: Runner) -> Report:
    """Bind the teacher of a run that is about to train, and report what will be updated.

    The run then uses the same binding. Raises OptionError as :func:`check_config` does.
    """
    check_detection_classes(runner.cfg)
    check_evaluator_file(runner.cfg, 'val')
    return _report(runner.hooks, plain_model(runner.model), runner.cfg, runner.seed)


def hook_classes(cfg: Config) -> list[tuple[Any, type]]:
    """Entry and class of each custom hook that exists.

    Raises:
        OptionError: If a name that does not exist is nearly one of ours.
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


def _report(hooks: list[Any], model: nn.Module, cfg: Config, seed: Optional[int]) -> Report:
    """Bind the hook that moves the teacher; of others, ``hooks`` may have the classes alone."""
    hook = next((hook for hook in hooks if isinstance(hook, SpatialEnsembleHook)), None)
    name = type(model).__name__
    if hook is None:
        found = [f'{path} ({kind.kind})' for path, kind in candidates(model, Settings()).items()]
        lines = (', '.join(found) or 'no teacher',)
        return Report(name, 'not moved by a hook of se_mm', lines)
    mover = hook.bind(model)
    settings = hook.settings
    others = (other for other in hooks if other is not hook)
    hook.check_other_hooks(other if isinstance(other, type) else type(other) for other in others)
    # A run by iterations counts as one epoch, until its data loader is there.
    iters = cfg.train_cfg.get('max_iters')
    check_begin(settings, iters, cfg.train_cfg.get('max_epochs') if iters is None else None)
    wrapper, updates = cfg.optim_wrapper, None
    if iters is not None and not settings.begin_epoch and 'optimizer' in wrapper:
        updates = count_updates(mover, int(iters), 1, int(wrapper.get('accumulative_counts', 1)))
        check_interval(mover, updates)
    seed = seed if settings.seed is None else settings.seed
    unit = 'epoch' if settings.begin_epoch else 'iteration'
    return Report(
        model=name,
        hook=type(hook).__name__,
        lines=tuple(mover.describe()),
        groups=tuple(_groups(mover, updates)),
        settings={
            'interval': f'every {mover.interval} opportunities' if mover.interval > 1 else '1',
            'begin': f'{unit} {settings.begin_epoch or settings.begin_iter}',
            'seed': 'drawn when the run starts' if seed is None else str(seed),
            'buffers': mover.ensemble.smoother.buffers,
        },
        updates=updates,
        rule=replace(settings.default, momentum=settings.momentum or mover.inherited_momentum()),
        kind=mover.teacher.kind,
    )


def _build(entry: Any) -> Any:
    """A hook as the runner builds it."""
    entry = copy.deepcopy(entry)
    if not isinstance(entry, Mapping):
        return entry
    return HOOKS.build({key: value for key, value in entry.items() if key != 'priority'})


def _build_model(cfg: Config) -> nn.Module:
    """The model of a config: on the meta device, which costs nothing, else on the CPU."""
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


def _groups(mover: Mover, updates: Optional[int]) -> Iterator[Group]:
    """The tensors of a teacher, by the option that says how each is updated."""
    smoother, settings = mover.ensemble.smoother, mover.ensemble.settings
    words = {'copy': 'copied at every update', 'skip': 'left as the first update has them'}
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
            horizon=None if rule is None else _horizon(rule, mover.inherited_momentum(), updates),
        )


def _horizon(
    rule: Rule, inherited: Optional[Schedule], updates: Optional[int]
) -> Optional[tuple[float, float]]:
    """Expected horizon in updates, ``1 / (momentum (1 - keep_prob))``, at both ends of the run."""
    if rule.momentum is None and inherited is None:
        return None
    total = _LATE if updates is None else max(1, updates)
    ends = []
    for step in (0, total):
        weight = rule.average(step, total, lambda step: inherited(step, total))  # type: ignore[misc]
        assert not callable(weight)
        share = (1.0 if weight is None else weight) * (1 - rule.keep_prob(step, total))
        ends.append(1 / share if share > 0 else math.inf)
    return ends[0], ends[1]
