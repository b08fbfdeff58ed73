# SPDX-License-Identifier: Apache-2.0
"""A user's own module, in runs that are to be killed: it notes what they do and kills them.

``FAULT_KILL`` names the place, the iteration from which on it counts, the rank, and a file that
says that it happened: ``{"where": "update", "at": 5, "rank": 0, "note": "killed"}``.
"""

import hashlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import mmengine.config.config
import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.structures import BaseDataElement
from torch import nn

from se_mm.models import ConvNet
from se_mm.smoothing import smoother
from se_mm.teachers import Updater

_kill = {'iter': 0}


def here(where):
    """End this process at once if this is where it is to be killed."""
    if _kill.get('where') == where and _kill['iter'] >= _kill['at'] and _kill['rank'] == get_rank():
        Path(_kill['note']).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def around(owner, name, before=None, after=None):
    """Do something before and after a function."""
    function = getattr(owner, name)

    def wrapped(*args, **options):
        if before:
            before(*args)
        result = function(*args, **options)
        if after:
            after(*args)
        return result

    setattr(owner, name, wrapped)


def half_written(descriptor):
    path = os.readlink(f'/proc/self/fd/{descriptor}')
    if '.pth' in path and _kill.get('where') == 'within save':
        if _kill['iter'] >= _kill['at']:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        here('within save')


def at_checkpoints(where):
    return lambda *paths: here(where) if '.pth' in str(paths[-1]) else None


def arm():
    """Do to this process what ``FAULT_KILL`` says. Called by ``fault_arm``, in a run alone."""
    # Setting a config in type takes most of the time of so small a run.
    mmengine.config.config.FormatCode = lambda text, **_: (text, True)
    _kill.update(json.loads(os.environ['FAULT_KILL']))
    if not _kill.get('where'):
        return
    around(os, 'fsync', half_written)
    around(os, 'replace', at_checkpoints('before rename'), at_checkpoints('after rename'))
    around(os, 'remove', at_checkpoints('before removal'))
    around(
        OptimWrapper,
        'update_params',
        lambda *_: here('before step'),
        lambda *_: here('after step'),
    )
    # An update has several groups: here one is made, and the others are not.
    around(smoother._Group, 'update', after=lambda *_: here('within update'))
    around(
        Updater,
        '__call__',
        lambda *_: here('before update'),
        lambda *_: here('after update'),
    )


def feed(digest, value):
    """Add everything in a batch to a digest."""
    if isinstance(value, BaseDataElement):
        value = dict([*value.metainfo_items(), *value.items()])
    if isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(str(key).encode())
            feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            feed(digest, item)
    elif hasattr(value, 'tensor'):  # mmdet's boxes
        feed(digest, value.tensor)
    elif isinstance(value, torch.Tensor):
        digest.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(np.ascontiguousarray(value).tobytes())
    else:
        digest.update(repr(value).encode())


@HOOKS.register_module()
class Probe(Hook):
    """Notes each batch, and at the end what this rank holds."""

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner, checkpoint):
        here('load')

    def before_train(self, runner):
        _kill['iter'] = runner.iter
        here('begin')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        _kill['iter'] = runner.iter
        digest = hashlib.blake2b(digest_size=8)
        feed(digest, data_batch)
        with open(f'{runner.work_dir}/batches.{get_rank()}', 'a') as notes:
            notes.write(f'{runner.iter} {digest.hexdigest()}\n')
        here('batch')

    def after_train(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        held = {'model': model.state_dict()}
        for hook in runner.hooks:
            if hasattr(hook, 'teacher'):
                pairs = hook.updater.smoother.pairs.values()
                held['teacher'] = {pair.name: pair.teacher for pair in pairs}
        torch.save(held, f'{runner.work_dir}/rank{get_rank()}.pt')


@HOOKS.register_module()
class FirstUpdate(Hook):
    """Keeps the first update of this process: student, and teacher before and after it."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        (hook,) = (h for h in runner.hooks if hasattr(h, 'teacher'))
        bound = hook.updater.smoother
        update = bound.update
        path = f'{runner.work_dir}/first_update.pt'

        def kept(student, step, total, seed):
            before = {name: pair.teacher.clone() for name, pair in bound.named().items()}
            update(student, step, total, seed)
            if get_rank() == 0 and not os.path.exists(path):
                kept = {
                    pair.name: (before[pair.name], pair.student.clone(), pair.teacher.clone())
                    for pair in bound.named().values()
                }
                torch.save({'step': step, 'seed': seed, 'tensors': kept}, path)

        bound.update = kept


@HOOKS.register_module()
class Memory(Hook):
    """Notes the resident memory of this rank.

    Args:
        interval: Iterations from one note to the next.
    """

    def __init__(self, interval):
        self.interval = interval
        # MMEngine keeps what was logged in a million iterations, and in each checkpoint, too.
        *others, _ = HistoryBuffer.__init__.__defaults__
        HistoryBuffer.__init__.__defaults__ = (*others, 1000)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.every_n_train_iters(runner, self.interval):
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            with open(f'{runner.work_dir}/memory.{get_rank()}', 'a') as notes:
                notes.write(f'{runner.iter + 1} {pages * os.sysconf("SC_PAGE_SIZE")}\n')


@MODELS.register_module()
class DroppingConvNet(ConvNet):
    """A ConvNet with a dropout in its second layer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.layers[1].append(nn.Dropout(0.2))
