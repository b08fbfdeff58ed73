# SPDX-License-Identifier: Apache-2.0
"""Errors that a config makes somewhere inside a library, as one line that names the config's part.

MMEngine builds everything from dicts, so that a wrong word in one of them is an exception far from
the config. What it was building is in the frames of the traceback.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.registry import Registry
from torch import nn

from se_mm.smoothing import TeacherFault
from se_mm.smoothing.options import OptionError, did_you_mean

# Methods of Runner -> the key of the config that they read.
_KEYS = {
    'setup_env': 'env_cfg',
    'set_randomness': 'randomness',
    'build_log_processor': 'log_processor',
    'build_logger': 'log_level',
    'build_visualizer': 'visualizer',
    '_check_scheduler_cfg': 'param_scheduler',
    'build_model': 'model',
    'wrap_model': 'model_wrapper_cfg',
    'register_default_hooks': 'default_hooks',
    'register_custom_hooks': 'custom_hooks',
    'build_train_loop': 'train_cfg',
    'build_optim_wrapper': 'optim_wrapper',
    'scale_lr': 'auto_scale_lr',
    'build_param_scheduler': 'param_scheduler',
    'build_val_loop': 'val_cfg',
    'build_test_loop': 'test_cfg',
    'build_evaluator': 'val_evaluator',
    '_init_model_weights': 'model',
    'load_or_resume': 'load_from',
}
_WHILE = 'at the first iteration'


class ConfigError(OptionError):
    """An error of a library that was made a line: where it comes from is in its traceback."""


class Watch(Hook):
    """Notes that an iteration was completed, after which errors are no longer the config's.

    Attributes:
        completed: Whether there was one.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.completed = False

    def after_train_iter(self, *args: Any, **options: Any) -> None:
        """Note it. Called after all other hooks."""
        self.completed = True


@contextmanager
def explained(cfg: Mapping[str, Any], watch: Optional[Watch] = None) -> Iterator[None]:
    """Make one line of what goes wrong inside, until an iteration is completed.

    Args:
        cfg: The config of the run.
        watch: A hook of the run. None: to the end.

    Raises:
        ConfigError: In place of any other exception.
    """
    try:
        yield
    except (OptionError, TeacherFault):
        raise
    except Exception as error:
        if watch is not None and watch.completed:
            raise
        raise ConfigError(explain(cfg, error)) from error


def explain(cfg: Mapping[str, Any], error: BaseException) -> str:
    """The line: the part of the config, what is wrong with it, and what is allowed if known.

    Args:
        cfg: The config.
        error: What was raised, with its traceback.
    """
    message = _message(error)
    if 'OptionError: ' in message:  # Of a worker process, which names a key already.
        return message.rpartition('OptionError: ')[2]
    frames = _frames(error)
    key, part, registry, kind = '', None, None, None
    for frame in frames:
        name, inside = frame.f_code.co_name, frame.f_locals
        runner = 'self' in inside and hasattr(inside['self'], 'call_hook')
        if runner and name in _KEYS:
            key, part, kind = _KEYS[name], None, None
        elif name == '_build_model':  # Of the check, which has no runner.
            key, part, kind = 'model', None, None
        elif runner and name == 'build_dataloader':
            key = _dataloader_key(cfg, key)
        elif name == 'build_from_cfg' and 'registry' in inside:
            part, registry, kind = inside.get('cfg'), inside['registry'], inside.get('obj_cls')
        elif name == 'call_hook' and 'hook' in inside:
            hook = inside['hook']
            key, part, kind = _hook_key(cfg, type(hook).__name__), None, None
        elif name == 'train_step':
            key, part, kind = f'model {_WHILE}', None, None
        elif (
            name in ('__next__', 'worker_loop') and 'dataloader' in type(inside['self']).__module__
        ):
            key, part, kind = f'train_dataloader {_WHILE}', None, None
        elif (
            key.startswith('model') and _WHILE in key and isinstance(inside.get('self'), nn.Module)
        ):
            module = type(inside['self']).__name__
            path = next(
                (path for path, other in _parts(cfg, '') if other.get('type') == module), ''
            )
            if path.startswith('model.'):
                key = f'{path} (type={module!r}) {_WHILE}'
        elif name in ('update_params', 'optim_context'):
            key, part, kind = f'optim_wrapper {_WHILE}', None, None
    where = _path(cfg, part, key) if isinstance(part, Mapping) else key
    return _said(where or 'config', part, registry, kind, error, message)


def unknown_type(where: str, name: str, registry: Registry) -> str:
    """The line about a class that does not exist.

    Args:
        where: Path of the part in the config.
        name: What its ``type`` is.
        registry: Where it was looked for.
    """
    hint = did_you_mean(name, _names(registry))
    return f'{where}.type={name!r} does not exist among the {registry.name}s.{hint}'


def _said(
    where: str,
    part: Any,
    registry: Optional[Registry],
    kind: Optional[type],
    error: BaseException,
    message: str,
) -> str:
    """The line, for a part that is known or not."""
    name = part.get('type') if isinstance(part, Mapping) else None
    if registry is not None and part is not None and not isinstance(part, Mapping):
        return f"{where}={_short(part)} is not allowed: a dict with a 'type'."
    if registry is not None and isinstance(part, Mapping) and name is None:
        return (
            f"{where}={_short(dict(part))} lacks a 'type': the name of one of its {registry.name}s."
        )
    if registry is not None and kind is None and isinstance(name, str):
        return unknown_type(where, name, registry)
    if registry is not None and kind is None and name is not None and not callable(name):
        return f'{where}.type={_short(name)} is not allowed: a name.'
    of = f' (type={getattr(kind, "__name__", name)!r})' if kind is not None or name else ''
    if isinstance(error, TypeError):
        option = re.search(r"unexpected keyword argument '(\w+)'", message)
        if option and inspect.isclass(kind):
            arguments = _arguments(kind)
            has = f' It has {", ".join(arguments)}.' if 0 < len(arguments) <= 20 else ''
            return (
                f'{where}{of} has no option {option[1]!r}.{has}{did_you_mean(option[1], arguments)}'
            )
        lacks = re.search(r'missing \d+ required .*arguments?: (.*)', message)
        if lacks and kind is not None and '__init__' in message:
            return f'{where}{of} lacks {lacks[1]}, which must be given.'
    plain = 'it lacks ' + message if isinstance(error, KeyError) else message
    return f'{where}{of} is not allowed as it is: {type(error).__name__}: {plain}'


def _message(error: BaseException) -> str:
    """What an exception says, on one line: of a worker process's traceback the last."""
    text = str(error).strip()
    if 'Original Traceback' in text or 'Traceback (most recent call last)' in text:
        text = text.splitlines()[-1]
    text = ' '.join(text.split())
    return text if len(text) <= 400 else text[:400] + ' ...'


def _frames(error: BaseException) -> list[FrameType]:
    """The frames that an exception went through, from the outermost."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames


def _path(cfg: Mapping[str, Any], part: Mapping[str, Any], key: str) -> str:
    """Dotted path of a part in a config, as far as it can be known."""
    found = [
        (path, other) for path, other in _parts(cfg, '') if other.get('type') == part.get('type')
    ]
    top = key.split(' ')[0]
    # Runner builds from copies, in which inner parts may have been taken out already.
    for choice in (
        [path for path, other in found if other == part and path.startswith(top)],
        [path for path, other in found if other == part],
        [path for path, _ in found if path.startswith(top)],
        [path for path, _ in found],
    ):
        if choice:
            return choice[0]
    return key


def _parts(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All dicts inside a value, with their dotted paths."""
    if isinstance(value, Mapping) or hasattr(value, '_cfg_dict'):
        if path:
            yield path, value
        for key, inner in value.items():
            yield from _parts(inner, f'{path}.{key}' if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _parts(inner, f'{path}.{index}')


def _names(registry: Optional[Registry]) -> list[str]:
    """What a config may name: of a registry, those above it, and its own scopes."""
    names: list[str] = []
    while registry is not None:
        names += registry.module_dict
        for scope, child in registry.children.items():
            names += [f'{scope}.{name}' for name in child.module_dict]
        registry = registry.parent
    return names


def _arguments(kind: type) -> list[str]:
    """What a class and its bases can be built with."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        for name, parameter in inspect.signature(base.__init__).parameters.items():
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                names.setdefault(name)
    names.pop('self', None)
    return list(names)


def _dataloader_key(cfg: Mapping[str, Any], key: str) -> str:
    return {'val_cfg': 'val_dataloader', 'test_cfg': 'test_dataloader'}.get(key, 'train_dataloader')


def _hook_key(cfg: Mapping[str, Any], name: str) -> str:
    for path, part in _parts({key: cfg.get(key) for key in ('custom_hooks', 'default_hooks')}, ''):
        if part.get('type') == name:
            return path
    return name


def _short(value: Any) -> str:
    text = ' '.join(repr(value).split())
    return text if len(text) <= 80 else text[:80] + ' ...'
