# SPDX-License-Identifier: Apache-2.0
"""What can be wrong in a config whatever its model, looked at before anything is built.

OpenMMLab finds some of these late, in the middle of a run even, and others never.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Optional

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from se_mm.smoothing.options import (
    OptionError,
    check_flag,
    check_keys,
    check_number,
    did_you_mean,
)

_Check = Callable[[str, Any], Any]


def _count(low: int, *others: Any) -> _Check:
    """A check of a whole number of at least ``low``, as ``1e4`` is one, too; or one of others."""

    def check(key: str, value: Any) -> None:
        if any(value is other for other in others):
            return
        whole = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not whole or not math.isfinite(value) or value != int(value) or value < low:
            allowed = f'a whole number of at least {low}'
            raise OptionError(f'{key}={value!r} is not allowed: {allowed}.')

    return check


def _number(low: float = -math.inf) -> _Check:
    """A check of a finite number of at least ``low``."""

    def check(key: str, value: Any) -> None:
        check_number(key, value, low, math.inf, open_high=True)

    return check


def _milestones(key: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)):
        raise OptionError(f'{key}={value!r} is not allowed: a list of whole numbers.')
    for index, number in enumerate(value):
        _count(0)(f'{key}[{index}]', number)


def _end(key: str, value: Any) -> None:
    if value != math.inf:
        _count(1, -1)(key, value)


def _length(key: str, value: Any) -> None:
    if value is not None:  # FixMatch's, of 7/16 of a cosine, is no whole number.
        check_number(key, value, 0, math.inf, open_low=True)


_LOOP = {
    'max_iters': _count(1),
    'max_epochs': _count(1),
    'val_interval': _count(1),
    'val_begin': _count(0),
}
_DATALOADER = {
    'batch_size': _count(1),
    'num_workers': _count(0),
    'prefetch_factor': _count(1, None),
    'persistent_workers': check_flag,
    'pin_memory': check_flag,
    'drop_last': check_flag,
    'shuffle': check_flag,
}
_OPTIMIZER = {
    'lr': _number(0),
    'weight_decay': _number(0),
    'momentum': _number(0),
    'eps': _number(0),
}
_SCHEDULER = {
    'begin': _count(0),
    'end': _end,
    'factor': _number(0),
    'start_factor': _number(0),
    'end_factor': _number(0),
    'gamma': _number(0),
    'power': _number(),
    'eta_min': _number(),
    'eta_min_ratio': _number(),
    'T_max': _length,
    'total_iters': _count(1),
    'step_size': _count(1),
    'milestones': _milestones,
    'by_epoch': check_flag,
}
_HOOK = {'max_keep_ckpts': _count(-1), 'interval': _count(-1), 'by_epoch': check_flag}
_SEED = _count(0, None)


def check_values(cfg: Mapping[str, Any]) -> None:
    """Refuse what no run can go on with, or what a run would not take notice of.

    Args:
        cfg: The config of a training.

    Raises:
        OptionError: Naming the first such key.
    """
    _check_names(cfg)
    for key in ('model', 'train_cfg', 'optim_wrapper', 'train_dataloader'):
        _mapping(key, cfg.get(key))
    _check_scope(cfg.get('default_scope'))
    _each('train_cfg', cfg.get('train_cfg'), _LOOP)
    if not {'max_iters', 'max_epochs', 'type'} & set(cfg.get('train_cfg')):
        raise OptionError('train_cfg has no max_iters or max_epochs, which a run needs.')
    for name, loader in cfg.items():
        if name.endswith('_dataloader') and isinstance(loader, Mapping):
            _each(name, loader, _DATALOADER)
    _check_train_dataloader('train_dataloader', cfg['train_dataloader'])
    _check_optimizer(cfg['optim_wrapper'])
    _check_schedulers('param_scheduler', cfg.get('param_scheduler'))
    _check_hooks(cfg)
    randomness = cfg.get('randomness')
    if randomness is not None:
        seed = _mapping('randomness', randomness).get('seed')
        _SEED('randomness.seed', seed)
        if seed is not None and not seed < 2**32:
            raise OptionError(f'randomness.seed={seed} is not allowed: below 2**32.')
    level = cfg.get('log_level', 'INFO')
    if not isinstance(level, int) and str(level) not in logging._nameToLevel:
        allowed = ['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL']
        raise OptionError(
            f'log_level={level!r} is not allowed: one of {", ".join(map(repr, allowed))}.'
            f'{did_you_mean(level, allowed)}'
        )
    for key in ('work_dir', 'load_from'):
        if cfg.get(key) is not None and not isinstance(cfg[key], str):
            raise OptionError(f'{key}={cfg[key]!r} is not allowed: a path.')


def hook_entries(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The hooks of a config, with the path of each."""
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if hook is not None:
            yield f'default_hooks.{name}', hook
    for index, hook in enumerate(cfg.get('custom_hooks') or ()):
        yield f'custom_hooks[{index}]', hook


def _check_names(cfg: Mapping[str, Any]) -> None:
    """Refuse a key that is nearly one of a Runner's: it would have no effect."""
    known = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    for key in cfg:
        near = difflib.get_close_matches(str(key), known - set(cfg), n=1, cutoff=0.9)
        if key not in known and near:
            raise OptionError(
                f'{key} is no key of a run, and has no effect. Did you mean {near[0]!r}?'
            )


def _check_scope(scope: Any) -> None:
    if scope is None:
        return
    packages = ['mmengine', 'mmpretrain', 'mmdet', 'mmseg', 'mmpose', 'mmaction', 'mmyolo']
    if isinstance(scope, str) and scope.isidentifier() and find_spec(scope) is not None:
        return
    raise OptionError(
        f'default_scope={scope!r} is not allowed: the name of an installed package, as '
        f"'mmpretrain'.{did_you_mean(scope, packages)}"
    )


def _check_train_dataloader(key: str, loader: Mapping[str, Any]) -> None:
    dataset = loader.get('dataset')
    if dataset is None:
        raise OptionError(f"{key} lacks 'dataset': a dict with its type.")
    if isinstance(dataset, Mapping):
        _typed(f'{key}.dataset', dataset)
    elif isinstance(dataset, (str, int, float, list, tuple)):
        raise OptionError(f'{key}.dataset={dataset!r} is not allowed: a dict with its type.')
    if 'batch_size' not in loader and loader.get('batch_sampler') is None:
        raise OptionError(f"{key} lacks 'batch_size': a whole number of at least 1.")
    sampler, batch_sampler = loader.get('sampler'), loader.get('batch_sampler')
    if sampler is None and batch_sampler is None:
        raise OptionError(f"{key} lacks 'sampler': a dict, as dict(type='DefaultSampler').")
    for name in ('sampler', 'batch_sampler', 'collate_fn'):
        part = loader.get(name)
        if isinstance(part, Mapping):
            _typed(f'{key}.{name}', part)
        elif isinstance(part, (str, int, float, list, tuple)):
            raise OptionError(f'{key}.{name}={part!r} is not allowed: a dict with its type.')


def _check_optimizer(wrapper: Mapping[str, Any]) -> None:
    _each('optim_wrapper', wrapper, {'accumulative_counts': _count(1)})
    optimizer = wrapper.get('optimizer')
    if optimizer is None:
        several = [value for value in wrapper.values() if isinstance(value, Mapping)]
        if 'constructor' in wrapper or any('optimizer' in value for value in several):
            return
        raise OptionError(
            "optim_wrapper lacks 'optimizer': a dict, as dict(type='SGD', lr=0.01, momentum=0.9)."
        )
    if isinstance(optimizer, (str, int, float, list, tuple)):
        raise OptionError(f'optim_wrapper.optimizer={optimizer!r} is not allowed: a dict.')
    if isinstance(optimizer, Mapping):
        _typed('optim_wrapper.optimizer', optimizer)
        _each('optim_wrapper.optimizer', optimizer, _OPTIMIZER)
    clip = wrapper.get('clip_grad')
    if clip is not None:
        _each(
            'optim_wrapper.clip_grad',
            _mapping('optim_wrapper.clip_grad', clip),
            {'max_norm': _number(0), 'clip_value': _number(0)},
        )


def _check_schedulers(key: str, value: Any) -> None:
    """Schedulers: none, one, a list, or a dict of such lists for several optimizers."""
    if value is None:
        return
    if isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            _scheduler(f'{key}[{index}]', one)
    elif isinstance(value, Mapping) and 'type' not in value and value:
        for name, inner in value.items():
            if not isinstance(inner, (list, tuple, Mapping)):
                raise OptionError(f"{key} lacks 'type': the name of a scheduler.")
            _check_schedulers(f'{key}.{name}', inner)
    else:
        _scheduler(key, value)


def _scheduler(key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        _typed(key, value)
        _each(key, value, _SCHEDULER)
    elif not hasattr(value, 'step'):
        raise OptionError(f'{key}={value!r} is not allowed: a dict with its type.')


def _check_hooks(cfg: Mapping[str, Any]) -> None:
    custom = cfg.get('custom_hooks')
    if custom is not None and not isinstance(custom, (list, tuple)):
        raise OptionError(
            f"custom_hooks={custom!r} is not allowed: a list, as [dict(type='SETMAHook')]."
        )
    if cfg.get('default_hooks') is not None:
        _mapping('default_hooks', cfg.get('default_hooks'))
    for key, hook in hook_entries(cfg):
        if isinstance(hook, Hook):
            continue
        if not isinstance(hook, Mapping):
            raise OptionError(f"{key}={hook!r} is not allowed: a dict, as dict(type='SETMAHook').")
        # A default hook may be changed without naming its type.
        if key.startswith('custom'):
            _typed(key, hook)
        if 'priority' in hook:
            _priority(f'{key}.priority', hook['priority'])
        if key.startswith('default'):
            _each(key, hook, _HOOK)
        if hook.get('type') == 'CheckpointHook':
            # Any other option is handed on, and fails when the first checkpoint is to be written.
            handed = inspect.signature(Runner.save_checkpoint).parameters
            known = {*inspect.signature(CheckpointHook.__init__).parameters, *handed}
            names = sorted(known - {'self', 'kwargs', 'out_dir', 'filename'})
            check_keys(key, set(hook) - {'type', 'priority', '_scope_', 'file_client_args'}, names)


def _priority(key: str, value: Any) -> None:
    from mmengine.runner.priority import Priority, get_priority

    try:
        get_priority(value)
    except (KeyError, TypeError, ValueError):
        raise OptionError(
            f'{key}={value!r} is not allowed: a whole number in [0, 100], or one of '
            f'{", ".join(Priority.__members__)}.{did_you_mean(value, Priority.__members__)}'
        ) from None


def _typed(key: str, value: Mapping[str, Any]) -> None:
    kind = value.get('type')
    if kind is None or kind == '':
        raise OptionError(f"{key} lacks 'type': the name of a class.")
    if not isinstance(kind, str) and not callable(kind):
        raise OptionError(f'{key}.type={kind!r} is not allowed: the name of a class.')


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise OptionError(f'{key}={value!r} is not allowed: a dict.')
    return value


def _each(key: str, part: Optional[Mapping[str, Any]], checks: Mapping[str, _Check]) -> None:
    for name, check in checks.items():
        if part is not None and name in part:
            check(f'{key}.{name}', part[name])
