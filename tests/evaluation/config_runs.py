# SPDX-License-Identifier: Apache-2.0
"""Tests shipped configs, in processes that the tests start."""

import json
import os

import torch
from mmengine.config import Config

from se_mm.engine.launch import build_runner
from se_mm.home import config_names, find_config


def config_of(name, work_dir):
    """A config with few generated images, which no number of processes divides."""
    cfg = Config.fromfile(find_config(name))
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.model.get('backbone', {}).pop('init_cfg', None)  # A checkpoint that is not here.
    for loader in filter(None, (cfg.test_dataloader, cfg.test_cfg.get('bank'))):
        for key, value in (('Glyphs', 403), ('DigitScenes', 31)):
            if loader.dataset.type == key:
                loader.dataset.num_images = value
    return cfg


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


def save_model(name, folder):
    """Save the initial weights of a config's model, as a checkpoint."""
    model = build_runner(config_of(name, folder / name)).model
    model.init_weights()
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, folder / name / 'model.pth')


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
            save_model(name, folder)
        cfg = config_of(name, folder / 'tests')
        cfg.launcher = 'pytorch'
        cfg.load_from = str(folder / name / 'model.pth')
        found[name] = build_runner(cfg).test()
    if rank == 0:
        (folder / f'{processes}.json').write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
