# SPDX-License-Identifier: Apache-2.0
"""What a config would update and how, worked out without its data, its GPU or its weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.visualization import Visualizer
from torch import nn

from se_mm.engine.hooks import SpatialEnsembleHook
from se_mm.engine.teachers import TEACHERS, Pair, Teacher
from se_mm.rng import rng_untouched
from se_mm.smoothing import Rule, Smoother
from se_mm.smoothing.options import OptionError, did_you_mean
from se_mm.smoothing.rules import COPY, SKIP
from se_mm.smoothing.schedules import Schedule
from se_mm.smoothing.units import Pair as TensorPair
from se_mm.smoothing.units import Units

_LATE = 10**12  # An update at which a schedule without an end has come to its value.


@dataclass(frozen=True)
class Share:
    """The tensors that are updated in one way.

    Attributes:
        source: What says so: ``'default'``, ``"overrides['norm']"`` or ``"buffers='copy'"``.
        how: In words.
        names: Names of the tensors in the student.
        units: How many units they split into; 0 where nothing is picked.
        numbers: How many numbers they have.
        bytes: How many bytes of the teacher.
        horizon: Expected updates that a number of the teacher reaches back, at the first smoothing
            and at the last; None where nothing is smoothed, or the average is a model's own.
    """

    source: str
    how: str
    names: tuple[str, ...]
    units: int
    numbers: int
    bytes: int
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
class ConfigReport:
    """What a config would update and how.

    Attributes:
        model: Class of the model.
        hook: The hook's class, or who else moves the teacher.
        teacher: Kind of teacher, and what follows what.
        shares: The ways in which tensors are updated; empty where no hook of ours is at work.
        settings: The hook's other options in force, as text by name.
        updates: Opportunities for an update in the run. None: not known without the data.
        device: Where the model was built: ``'meta'`` or ``'cpu'``.
        rule: How tensors without an override are smoothed. None: no hook of ours is at work.
    """

    model: str
    hook: str
    teacher: str
    shares: tuple[Share, ...]
    settings: Mapping[str, str]
    updates: Optional[int]
    device: str
    rule: Optional[Rule] = None

    @property
    def short(self) -> str:
        """One line."""
        if not self.shares:
            return f'{self.model}: {self.teacher}; {self.hook}'
        ways = '; '.join(f'{len(share.names)} by {share.source}' for share in self.shares)
        updates = '' if self.updates is None else f'; {self.updates:,} updates'
        return f'{self.model}: {self.teacher}; {self.hook} updates tensors: {ways}{updates}'

    def __str__(self) -> str:
        lines = [f'model: {self.model}', f'teacher: {self.teacher}', f'hook: {self.hook}']
        lines += [f'{name}: {text}' for name, text in self.settings.items()]
        if self.shares:
            known = 'not known without the data, whose size makes the length of an epoch'
            lines.append(f'updates: {known if self.updates is None else f"{self.updates:,}"}')
        for share in self.shares:
            lines.append(str(share))
            if share.source.startswith('overrides'):
                lines += [f'  {name}' for name in share.names]
        return '\n'.join(lines)


def check_config(cfg: Config) -> ConfigReport:
    """Bind the teacher of a config without loading data, and say what would be updated.

    Global random generators, registries' scopes and MMEngine's global instances stay as they are.

    Args:
        cfg: The config of a training. It is not changed.

    Raises:
        OptionError: If something in it is wrong, or its teacher would never be updated.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    with (
        rng_untouched(),
        _instances_untouched(),
        warnings.catch_warnings(),
        DefaultScope.overwrite_default_scope(scope),
    ):
        warnings.simplefilter('ignore')  # Those of the model come when it is built to be trained.
        kinds = _hook_kinds(cfg)
        ours = [(key, entry) for key, entry, kind in kinds if issubclass(kind, SpatialEnsembleHook)]
        # An option that is wrong need not wait for the model.
        hooks = [_build(key, entry, HOOKS.build) for key, entry in ours]
        model, device = _build_model(cfg)
        if hooks:
            others = [kind for key, _, kind in kinds if key != ours[0][0]]
            return _report(cfg, model, device, hooks[0], others)
        return _report_without(model, device, [kind for _, _, kind in kinds], kinds)


def _report(
    cfg: Config,
    model: nn.Module,
    device: str,
    hook: SpatialEnsembleHook,
    others: Iterable[type],
) -> ConfigReport:
    """The report of a run with a hook of ours."""
    teacher, smoother = hook.bind(model)
    hook.check_other_hooks(others, teacher)
    max_iters, max_epochs = _length(cfg)
    hook.check_begin(max_iters, max_epochs)
    updates = _updates(cfg, hook, teacher, max_iters, max_epochs)
    if updates is not None:
        hook.check_interval(updates)
    seed = hook.seed if hook.seed is not None else (cfg.get('randomness') or {}).get('seed')
    begin = f'epoch {hook.begin_epoch}' if hook.begin_epoch else f'iteration {hook.begin_iter}'
    return ConfigReport(
        model=type(model).__name__,
        hook=type(hook).__name__,
        teacher=str(teacher),
        shares=tuple(_shares(smoother, hook.buffers, updates)),
        settings={
            'interval': f'every {hook.interval} opportunities' if hook.interval > 1 else '1',
            'begin': begin,
            'seed': 'drawn when the run starts' if seed is None else str(seed),
            'buffers': hook.buffers,
        },
        updates=updates,
        device=device,
        rule=smoother.rules.default,
    )


def _report_without(
    model: nn.Module, device: str, kinds: Sequence[type], entries: Sequence[tuple]
) -> ConfigReport:
    """The report of a run without a hook of ours, which must move its teacher in another way."""
    name = type(model).__name__
    found = [
        (kind, path) for kind in TEACHERS.module_dict.values() for path in kind.candidates(model)
    ]
    found = [(kind, path) for kind, path in found if path]
    # By its method, since mmdet need not be installed.
    mean_teacher = next((kind for kind in kinds if hasattr(kind, 'momentum_update')), None)
    averaging = next((kind for kind in kinds if issubclass(kind, EMAHook)), None)
    if Pair.candidates(model):
        if mean_teacher is None:
            raise OptionError(
                f'custom_hooks has no hook that moves the teacher of {name}: add '
                f"dict(type='SETMAHook'), or, for a teacher equal to the student, "
                f"dict(type='SpatialEnsembleHook', keep_prob=0)."
            )
        teacher, who = 'teacher (pair) follows student', f'{mean_teacher.__name__}, not of se_mm'
    elif averaging is not None and not found:
        teacher, who = f'a copy of {name} (shadow)', f'{averaging.__name__}, of MMEngine'
        for key, entry, kind in entries:
            if kind is averaging:
                _build_average(key, entry, model)
    elif found:
        teacher = ', '.join(f'{path} ({kind.kind})' for kind, path in found)
        who = f'moved by {name} itself, without a hook of se_mm'
    else:
        teacher, who = 'none', 'none'
    return ConfigReport(name, who, teacher, (), {}, None, device)


def _build_average(key: str, entry: Mapping[str, Any], model: nn.Module) -> None:
    """Build what an ``EMAHook`` would keep, whose options are looked at only then."""
    hook = _build(key, entry, HOOKS.build)
    MODELS.build(hook.ema_cfg, default_args=dict(model=model))


def hook_entries(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The hooks of a config, with the path of each."""
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if hook is not None:
            yield f'default_hooks.{name}', hook
    for index, hook in enumerate(cfg.get('custom_hooks') or ()):
        yield f'custom_hooks[{index}]', hook


def _hook_kinds(cfg: Config) -> list[tuple[str, Any, type]]:
    """Path, entry and class of each hook.

    Raises:
        OptionError: If there is no such class.
    """
    kinds = []
    for key, entry in hook_entries(cfg):
        name = entry.get('type') if isinstance(entry, Mapping) else type(entry)
        if name is None:
            continue  # A default hook of which an option is changed.
        kind = name
        if isinstance(name, str):
            with HOOKS.switch_scope_and_registry(entry.get('_scope_')) as registry:
                kind = registry.get(name)
            if kind is None:
                known = ['SETMAHook', 'SpatialEnsembleHook']
                hint = did_you_mean(name, known) or did_you_mean(name, HOOKS.module_dict)
                raise OptionError(f'{key} has type={name!r}, which does not exist.{hint}')
        if isinstance(kind, type):
            kinds.append((key, entry, kind))
    return kinds


def _build(key: str, entry: Any, build: Callable[[Any], Any]) -> Any:
    """A hook as the runner builds it."""
    if not isinstance(entry, Mapping):
        return entry
    entry = copy.deepcopy(entry)
    entry.pop('priority', None)
    return build(entry)


def _build_model(cfg: Config) -> tuple[nn.Module, str]:
    """The model of a config: on the meta device, which costs nothing, else on the CPU."""
    model = copy.deepcopy(cfg.model)
    if isinstance(cfg.get('data_preprocessor'), Mapping):
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    try:
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(model)), 'meta'
    except OptionError:
        raise
    except Exception:  # Some constructors read the values of their tensors.
        return MODELS.build(model), 'cpu'


@contextmanager
def _instances_untouched() -> Iterator[None]:
    """Leave MMEngine's global instances as they are, of which the newest counts."""
    kinds = (DefaultScope, MessageHub, MMLogger, Visualizer)
    before = [kind._instance_dict.copy() for kind in kinds]
    try:
        yield
    finally:
        for kind, instances in zip(kinds, before):
            kind._instance_dict = instances


def _length(cfg: Config) -> tuple[Optional[int], Optional[int]]:
    """Iterations and epochs of a run, where they are known without its data."""
    train_cfg = cfg.train_cfg
    iters, epochs = train_cfg.get('max_iters'), train_cfg.get('max_epochs')
    if iters is not None:
        # A run by iterations counts as one epoch, until its data loader is there.
        return int(iters), None
    return None, None if epochs is None else int(epochs)


def _updates(
    cfg: Config,
    hook: SpatialEnsembleHook,
    teacher: Teacher,
    max_iters: Optional[int],
    max_epochs: Optional[int],
) -> Optional[int]:
    """Opportunities for an update, where they are known."""
    wrapper = cfg.optim_wrapper
    if max_iters is None or hook.begin_epoch or ('optimizer' not in wrapper):
        return None
    return hook.count_updates(teacher, max_iters, 1, int(wrapper.get('accumulative_counts', 1)))


def _shares(smoother: Smoother, policy: str, updates: Optional[int]) -> Iterator[Share]:
    """The tensors of a teacher, by what says how each is updated."""
    groups: dict[tuple[str, str], list[TensorPair]] = {}
    rules: dict[tuple[str, str], Optional[Rule]] = {}

    def put(pair: TensorPair, source: str, rule: Any) -> None:
        if isinstance(rule, Rule) and not pair.teacher.is_floating_point():
            rule = COPY
        how = {COPY: 'copied at every update', SKIP: 'left as the first update has them'}.get(
            rule if isinstance(rule, str) else '', str(rule)
        )
        groups.setdefault((source, how), []).append(pair)
        rules[source, how] = rule if isinstance(rule, Rule) else None

    for pair in smoother.parameters:
        part = smoother.rules.part_of(pair.name)
        put(
            pair,
            'default' if part is None else f'overrides[{part!r}]',
            smoother.rules.of(pair.name),
        )
    for pair in smoother.buffers:
        part, rule = smoother.rules.part_of(pair.name), smoother.rules.of(pair.name)
        if isinstance(rule, str):
            put(pair, f'overrides[{part!r}]', rule)
        elif policy == 'average':
            put(pair, "buffers='average'", rule)
        else:
            put(pair, f'buffers={policy!r}', policy)
    for (source, how), pairs in groups.items():
        rule = rules[source, how]
        filled = [pair for pair in pairs if pair.teacher.numel()]
        yield Share(
            source=source,
            how=how,
            names=tuple(pair.name for pair in pairs),
            units=0 if rule is None else len(Units(filled, rule.granularity)),
            numbers=sum(pair.teacher.numel() for pair in pairs),
            bytes=sum(pair.teacher.numel() * pair.teacher.element_size() for pair in pairs),
            horizon=None if rule is None else _horizon(rule, updates),
        )


def _horizon(rule: Rule, updates: Optional[int]) -> Optional[tuple[float, float]]:
    """Expected horizon in updates, ``1 / (momentum (1 - keep_prob))``, at both ends of the run."""
    if rule.momentum is not None and not isinstance(rule.momentum, Schedule):
        return None
    total = _LATE if updates is None else max(1, updates)
    ends = []
    for step in (0, total):
        weight = rule.average(step, total)
        share = (1.0 if weight is None else weight) * (1 - rule.keep_prob(step, total))
        ends.append(1 / share if share > 0 else math.inf)
    return ends[0], ends[1]
