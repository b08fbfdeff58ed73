# SPDX-License-Identifier: Apache-2.0
"""What the command line tools have in common: options, the runner, and errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, Optional

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.dist import barrier, is_distributed
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import Runner

from se_mm.engine.config_errors import ConfigError, Watch, explained
from se_mm.engine.cpu import CPURunner
from se_mm.engine.resumable_runner import ResumableRunner
from se_mm.home import CONFIGS, config_names
from se_mm.smoothing import TeacherFault
from se_mm.smoothing.options import OptionError, did_you_mean

TRACEBACK = '--traceback'
"""The option that shows where an error comes from."""


class KeyValues(DictAction):
    """``KEY=VALUE ...`` as a dict; what is no such pair ends the command like any wrong option."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        """Read the pairs. Called by argparse."""
        for value in values:
            if '=' not in value:
                parser.error(f'argument {option_string}: {value!r} is not of the form KEY=VALUE')
            try:
                self._parse_iterable(value.split('=', 1)[1])
            except (RecursionError, AssertionError):  # MMEngine's ways to say that it cannot.
                parser.error(
                    f'argument {option_string}: {value!r} cannot be read: its value may be a '
                    f'number, a text, or a list or tuple of these'
                )
        super().__call__(parser, namespace, values, option_string)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that OpenMMLab's training and test scripts share."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='turn pin_memory of the dataloaders off'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='settings of the config to change: a.b=1 c="[1,2]"; no white space in a value',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    parser.add_argument(TRACEBACK, action='store_true', help='show where an error comes from, too')
    # torchrun sets LOCAL_RANK; older launchers pass this option.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace, keys: Iterable[str]) -> Config:
    """Read the config that a command line names, with the options that both tools share.

    Args:
        args: Parsed options, with ``config`` and those of :func:`add_common_options`.
        keys: What the config must have.

    Raises:
        OptionError: If there is no such file, it cannot be read, or it lacks a key.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    path = config_file(args.config)
    try:
        cfg = Config.fromfile(path)
    except (
        SyntaxError,
        NameError,
        KeyError,
        AttributeError,
        TypeError,
        ValueError,
        OSError,
        ImportError,
    ) as error:
        cause: BaseException = error
        # MMEngine says which modules a config asked for; what failed in them is behind that.
        while isinstance(cause.__context__, ImportError):
            cause = cause.__context__
        message = ' '.join(str(cause).split())
        raise OptionError(f'config={path!r} cannot be read: {message}') from error
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise OptionError(f'config={path!r} has no {", ".join(missing)}, which this needs.')
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('./work_dirs', Path(path).stem)
    return cfg


def merge_options(cfg: Config, args: argparse.Namespace) -> None:
    """Let ``--cfg-options`` have the last word, and set what OpenMMLab's tools set.

    Raises:
        OptionError: If an option goes through something that is no dict or list.
    """
    if args.cfg_options:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (TypeError, KeyError, IndexError, AssertionError) as error:
            message = ' '.join(str(error).split())
            raise OptionError(f'--cfg-options cannot be merged: {message}') from error
    for name, loader in cfg.items():
        if name.endswith('_dataloader') and isinstance(loader, dict):
            if cfg.get('default_scope') == 'mmpretrain':
                # Its own tools fill these in, and its configs rely on that.
                loader.setdefault('collate_fn', dict(type='default_collate'))
                loader.setdefault('pin_memory', True)
                loader.setdefault('persistent_workers', True)
            if isinstance(loader.get('collate_fn'), dict):
                # A config inherited as `mmpretrain::...` has its scope in every dict, and Runner
                # hands what is in this one to the collate function.
                loader.collate_fn.pop('_scope_', None)
            if args.no_pin_memory:
                loader.pin_memory = False
            if not loader.get('num_workers'):
                loader.persistent_workers = False
            if get_device() == 'cpu':
                loader.pin_memory = False  # Nothing to pin it for, and PyTorch warns.


def build_runner(cfg: Config) -> Runner:
    """The runner that a config describes.

    Raises:
        OptionError: If a hook of ours is misspelt, or the launcher needs a GPU and there is none.
    """
    for hook in cfg.get('custom_hooks') or []:
        name = hook.get('type') if isinstance(hook, dict) else None
        if isinstance(name, str) and '.' not in name and HOOKS.get(name) is None:
            hint = did_you_mean(name, ['SETMAHook', 'SpatialEnsembleHook'])
            if hint:
                raise OptionError(f'custom_hooks has type={name!r}, which does not exist.{hint}')
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    if get_device() != 'cpu':
        return ResumableRunner.from_cfg(cfg)
    if cfg.launcher not in ('none', 'pytorch'):
        raise OptionError(
            f"launcher={cfg.launcher!r} needs a GPU: without one, 'pytorch' or 'none'."
        )
    if (cfg.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
    return CPURunner.from_cfg(cfg)


def train(cfg: Config) -> None:
    """Train a config.

    Raises:
        OptionError: If something goes wrong before the first iteration is completed, since it is
            mostly the config then.
    """
    watch = Watch()
    with explained(cfg, watch):
        runner = build_runner(cfg)
        runner.register_hook(watch)
        runner.train()


def config_file(name: str) -> str:
    """The path of a config: a file, or the name of one that comes with this.

    Raises:
        OptionError: If it is neither.
    """
    if isinstance(name, str) and not os.path.isfile(name) and name in config_names():
        return str(CONFIGS / name)
    try:
        return require_file('config', name)
    except OptionError as error:
        hint = did_you_mean(name, config_names())
        if 'Did you mean' in str(error) or not hint:
            raise
        raise OptionError(f'{error}{hint}') from error


def require_file(key: str, path: str) -> str:
    """Return ``path`` if it is a local file, or not local at all.

    Raises:
        OptionError: If there is no such file; it names the nearest in that folder.
    """
    if not isinstance(path, str):
        raise OptionError(f'{key}={path!r} is not allowed: the path of a file.')
    if '://' in path or os.path.isfile(path):
        return path
    folder = Path(path).parent
    names = [str(folder / child.name) for child in folder.iterdir()] if folder.is_dir() else []
    raise OptionError(
        f'{key}={path!r} does not exist: the path of a file.{did_you_mean(path, names)}'
    )


def run_tool(main: Callable[[], None], interrupted: str) -> NoReturn:
    """Run a tool's main function, and end the process as a command line should.

    What a user can mend is one line on standard error and exit status 2, on rank 0 alone; a damaged
    teacher is one line and status 3, Ctrl-C one line and status 130. Everything else keeps its
    traceback.

    Args:
        main: The tool.
        interrupted: What to say on Ctrl-C.
    """
    signal.signal(signal.SIGINT, lambda *_: _end(interrupted, 128 + signal.SIGINT))
    try:
        main()
    except OptionError as error:
        time.sleep(0)  # See below.
        # One from a worker process of a dataloader comes with its whole traceback.
        message = ' '.join(str(error).rpartition('OptionError: ')[2].split())
        if TRACEBACK in sys.argv:
            traceback.print_exc()
        elif isinstance(error, ConfigError):
            message += f' ({TRACEBACK} shows where.)'
        _end(f'error: {message}', 2)
    except TeacherFault as error:
        _end(f'error: {error}', 3)
    except Exception:
        # Where another rank has left for the same Ctrl-C, that failed which waited for it: let the
        # interrupt, which is still pending, be handled first.
        time.sleep(0)
        raise
    leave_group()
    sys.exit(0)


def leave_group() -> None:
    """Leave the group of ranks, after work that all have completed.

    A rank that ends within it may abort in a thread of gloo's, with everything done
    (pytorch/pytorch#190489), and its job counts as failed. After an error nobody leaves: others may
    be waiting for this rank, and this one would then wait for them.
    """
    if is_distributed():
        barrier()
        torch.distributed.destroy_process_group()


def _end(message: str, status: int) -> NoReturn:
    """Say why, on rank 0, and leave at once: other ranks and workers may be gone already."""
    # Called by a signal handler, too, which may have interrupted a write to the same stream.
    with contextlib.suppress(RuntimeError):
        sys.stdout.flush()
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        os.write(2, f'{message}\n'.encode())
    else:
        # The launcher ends all ranks as soon as one has left: let rank 0 say why first. Where it
        # has not, this rank is the only one that knows.
        time.sleep(10)
        if status != 128 + signal.SIGINT:  # All know of a Ctrl-C.
            os.write(2, f'{message}\n'.encode())
    os._exit(status)


def resume_from(cfg: Config, resume: Optional[str]) -> None:
    """Set what a run goes on from.

    Args:
        cfg: The config of the run.
        resume: None: not at all; ``'auto'``: the last checkpoint of the work dir; else a path.

    Raises:
        OptionError: If there is no such checkpoint.
    """
    if resume == 'auto':
        cfg.resume = True
        cfg.load_from = None
    elif resume is not None:
        cfg.resume = True
        cfg.load_from = resume
    if cfg.get('load_from'):
        require_file('--resume' if resume else 'load_from', cfg.load_from)
