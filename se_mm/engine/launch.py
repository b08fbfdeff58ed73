# SPDX-License-Identifier: Apache-2.0
"""Shared by the command line tools: options, the runner, and one-line errors."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import barrier, is_distributed
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from se_mm.engine.cfg_options import key_value
from se_mm.engine.check import hook_classes
from se_mm.engine.runner.cpu import CPURunner
from se_mm.engine.runner.resumable_runner import ResumableRunner
from se_mm.home import bare_names, find_config
from se_mm.smoothing import TeacherFault
from se_mm.smoothing.options import OptionError, did_you_mean


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that OpenMMLab's training and test scripts share."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='set pin_memory=False in all dataloaders'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        type=key_value,
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of the config: a.b=1 c="[1,2]" d="\'a string, in quotes\'"',
    )
    launchers = ['none', 'pytorch', 'slurm', 'mpi']
    parser.add_argument('--launcher', choices=launchers, default='none', help='job launcher')
    # torchrun sets LOCAL_RANK; older launchers pass this option.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace, keys: Iterable[str]) -> Config:
    """Read the config that a command line names, which must have ``keys``."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    path = config_file(args.config)
    cfg = Config.fromfile(path)
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise OptionError(f'config {path!r} must have {", ".join(missing)}')
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('./work_dirs', Path(path).stem)
    return cfg


def merge_options(cfg: Config, args: argparse.Namespace) -> None:
    """Apply ``--cfg-options`` last, and the defaults that OpenMMLab's tools set."""
    if args.cfg_options:
        try:
            cfg.merge_from_dict(dict(args.cfg_options))
        except (TypeError, KeyError, IndexError, AssertionError) as error:
            message = ' '.join(str(error).split())
            raise OptionError(f'--cfg-options cannot be merged: {message}') from error
    for name, loader in cfg.items():
        if name.endswith('_dataloader') and isinstance(loader, dict):
            if cfg.get('default_scope') == 'mmpretrain':
                # mmpretrain's tools set these, and its configs rely on it.
                loader.setdefault('collate_fn', dict(type='default_collate'))
                loader.setdefault('pin_memory', True)
                loader.setdefault('persistent_workers', True)
            if isinstance(loader.get('collate_fn'), dict):
                # A config inherited as `mmpretrain::...` has a scope in every dict, and Runner
                # passes the items of this one to the collate function.
                loader['collate_fn'].pop('_scope_', None)
            if args.no_pin_memory:
                loader['pin_memory'] = False
            if not loader.get('num_workers'):
                loader['persistent_workers'] = False
            if get_device() == 'cpu':
                loader['pin_memory'] = False  # Useless, and PyTorch warns.


def build_runner(cfg: Config) -> Runner:
    """Build the runner that a config describes."""
    hook_classes(cfg)  # For a misspelt hook, MMEngine's error does not suggest the right name.
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    if get_device() != 'cpu':
        return ResumableRunner.from_cfg(cfg)
    if cfg.launcher not in ('none', 'pytorch'):
        raise OptionError(
            f"launcher must be 'none' or 'pytorch' without a GPU, got {cfg.launcher!r}"
        )
    if (cfg.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
    return CPURunner.from_cfg(cfg)


def config_file(name: str) -> str:
    """Return the path of a config, given as a file or as the name of a shipped one."""
    shipped = None if os.path.isfile(name) else find_config(name)
    return str(shipped) if shipped else require_file('config', name, bare_names())


def require_file(key: str, path: str, names: Iterable[str] = ()) -> str:
    """Return ``path``, a local file or a URL; if missing, suggest a file or one of ``names``."""
    if '://' in path or os.path.isfile(path):
        return path
    folder = Path(path).parent
    beside = [str(folder / child.name) for child in folder.iterdir()] if folder.is_dir() else []
    hint = did_you_mean(path, beside) or did_you_mean(path, names)
    raise OptionError(f'{key} file {path!r} does not exist.{hint}')


def run_tool(main: Callable[[], None], interrupted: str) -> NoReturn:
    """Run a tool's main function and exit.

    Rank 0 prints one line to standard error for an invalid option (exit status 2), a damaged
    teacher (3) or Ctrl-C (``interrupted``, 130). Any other error keeps its traceback and status 1.
    """
    signal.signal(signal.SIGINT, lambda *_: _end(interrupted, 128 + signal.SIGINT))
    try:
        main()
    except OptionError as error:
        time.sleep(0)  # See below.
        # An error from a dataloader's worker process has a traceback in its message.
        message = ' '.join(str(error).rpartition('OptionError: ')[2].split())
        _end(f'error: {message}', 2)
    except TeacherFault as error:
        _end(f'error: {error}', 3)
    except Exception:
        # After Ctrl-C, communication with a rank that has exited may fail before this rank handles
        # its own interrupt: handle it now.
        time.sleep(0)
        raise
    if is_distributed():
        # A rank that exits without leaving its group may abort in one of gloo's threads
        # (pytorch/pytorch#190489), and the job counts as failed. Not after an error, where the
        # ranks would wait for each other.
        barrier()
        torch.distributed.destroy_process_group()
    sys.exit(0)


def is_first_rank() -> bool:
    """Return whether this process prints; works before the process group is initialised."""
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def _end(message: str, status: int) -> NoReturn:
    """Print a message on rank 0 and exit at once, without waiting for other ranks or workers."""
    # A signal handler that calls this may have interrupted a write to the same stream.
    with contextlib.suppress(RuntimeError):
        sys.stdout.flush()
    if not is_first_rank():
        # The launcher stops all ranks as soon as one exits, so let rank 0 print first. If it does
        # not exit, only this rank has the error.
        time.sleep(10)
    if is_first_rank() or status != 128 + signal.SIGINT:  # Every rank gets a Ctrl-C.
        os.write(2, f'{message}\n'.encode())
    os._exit(status)


def resume_option(cfg: Config, resume: Optional[str]) -> Optional[str]:
    """Return ``--resume`` (None, ``'auto'`` or a path), changed for ranks that were restarted.

    Ranks that ``tools/torchrun.py`` restarts resume from the newest checkpoint of the work dir if
    their run has saved one. The first start checks that there is none of an earlier run.
    """
    newest = Path(cfg.work_dir) / 'last_checkpoint'
    if not newest.is_file():
        return resume
    if int(os.environ.get('SE_MM_RESTART', 0)):
        return 'auto'
    name = newest.read_text().strip()
    source = resume or (cfg.get('load_from') or 'auto' if cfg.get('resume') else None)
    if source == 'auto' or (source and os.path.realpath(source) == os.path.realpath(name)):
        return resume
    if int(os.environ.get('SE_MM_MAX_RESTARTS', 0)):
        raise OptionError(
            f'work_dir {cfg.work_dir!r} must have no checkpoints of another run with MAX_RESTARTS, '
            f'got {name!r}; use another --work-dir, or --resume'
        )
    if source is None and is_first_rank():
        print(
            f'warning: work_dir {cfg.work_dir!r} has checkpoints of an earlier run, which will be '
            f'overwritten; resume from them with --resume',
            file=sys.stderr,
        )
    return resume


def resume_from(cfg: Config, resume: Optional[str]) -> None:
    """Set what a run resumes from.

    Args:
        cfg: The config of the run.
        resume: None: nothing; ``'auto'``: the newest checkpoint of the work dir, or without one
            start from ``load_from``; else a path.
    """
    if resume == 'auto' and cfg.get('runner_type', 'ResumableRunner') == 'ResumableRunner':
        cfg.resume = 'auto'
    elif resume is not None:  # 'auto' as in OpenMMLab's own tools.
        cfg.resume, cfg.load_from = True, None if resume == 'auto' else resume
    if cfg.get('load_from'):
        require_file('load_from' if resume in (None, 'auto') else '--resume', cfg.load_from)
