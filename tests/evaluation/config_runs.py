# SPDX-License-Identifier: Apache-2.0
"""Trains and tests shipped configs, in processes that the tests start."""

import json
import os

import torch
from mmengine.config import Config

from se_mm.engine.launch import build_runner
from se_mm.home import config_names, find_config

ITERS = 2


def small_configs():
    """Names of the configs for the CPU whose data are here."""
    for name in config_names(studies=False):
        cfg = Config.fromfile(find_config(name))
        if (
            'conv' in name
            and cfg.get('test_dataloader')
            and all(map(os.path.isdir, roots(cfg.to_dict())))
        ):
            yield name


def roots(part):
    """The data folders that a part of a config names."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if key == 'data_root':
            yield value
        elif isinstance(value, (dict, list, tuple)):
            yield from roots(value)


def trained(name, folder):
    """A runner of a config after a few iterations, without a validation."""
    cfg = Config.fromfile(find_config(name))
    cfg.work_dir, cfg.launcher = str(folder / name), 'none'
    loader = cfg.train_dataloader
    loader.num_workers, loader.persistent_workers = 0, False
    cfg.train_cfg.update(max_iters=ITERS, val_interval=ITERS + 1)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=ITERS)
    runner = build_runner(cfg)
    runner.train()
    return runner


def measure(rank, processes, port, names, folder):
    """Test the configs as one of several processes; the first one writes the metrics."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), MASTER_PORT=port
    )
    os.environ['MASTER_ADDR'] = '127.0.0.1'
    torch.set_num_threads(1)
    found = {}
    for name in names:
        if processes == 1:
            trained(name, folder)
        cfg = Config.fromfile(find_config(name))
        cfg.work_dir, cfg.launcher = str(folder / 'tests'), 'pytorch'
        cfg.load_from = str(folder / name / f'iter_{ITERS}.pth')
        found[name] = build_runner(cfg).test()
    if rank == 0:
        (folder / f'{processes}.json').write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
