# SPDX-License-Identifier: Apache-2.0
"""Train a row of the table by MMEngine's own Runner, under the stock hook or ours."""

import copy
import itertools
import math

import samples  # noqa: F401  (registers the data set)
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from table import stock_file

STOCK = {}
TYPE_ALONE = dict(type='SETMAHook')
KEEP_NOTHING = dict(type='SETMAHook', keep_prob=0)
_run = itertools.count()


@HOOKS.register_module(force=True)
class KeepStart(Hook):
    """Writes the weights with which the training starts to ``start.pth``."""

    def before_train(self, runner):
        torch.save(runner.model.state_dict(), f'{runner.work_dir}/start.pth')


def small_config(row, work_dir):
    """The stock config of a row, shrunk, on synthetic data, four iterations long.

    Everything that is not named here stays what the library wrote: the model and its losses, the
    data preprocessor, the optimizer, the collate function and the custom hooks.
    """
    cfg = Config.fromfile(stock_file(*row.config.split('::')))
    init_default_scope(cfg.default_scope)
    cfg.merge_from_dict(row.shrink)
    if row.prepare:
        row.prepare(cfg, work_dir.parent)
    cfg.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='SyntheticDataset', **row.samples),
        collate_fn=cfg.train_dataloader.get('collate_fn') or dict(type='pseudo_collate'),
    )
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4)
    for mode, part in itertools.product(('val', 'test'), ('dataloader', 'cfg', 'evaluator')):
        cfg.pop(f'{mode}_{part}', None)
    for optimizer in optimizers_of(cfg.optim_wrapper):
        optimizer.lr = row.lr
    cfg.param_scheduler = None
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False))
    if row.line:
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), row.line]
    if row.in_python:
        for line in cfg.custom_hooks:
            if line.type == 'EMAHook':
                line.ema_type = MODELS.get(f'{cfg.default_scope}.{line.ema_type}')
    cfg.randomness = dict(seed=0)
    cfg.launcher, cfg.log_level, cfg.visualizer = 'none', 'ERROR', None
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{row}-{next(_run)}'
    return cfg


def optimizers_of(wrapper):
    """The settings of the optimizers of a config, of which a GAN has several."""
    if 'optimizer' in wrapper:
        return [wrapper.optimizer]
    return [part.optimizer for part in wrapper.values() if isinstance(part, dict)]


def switch(cfg, hook, replaces):
    """Put our hook in the place of the line of EMAHook by its type, or add it where there is none.

    Args:
        cfg: The config, which is changed.
        hook: ``type`` of our hook, and what is set beside the options of a line of ``EMAHook``.
        replaces: Type of the line.
    """
    if not hook:
        return
    # A config that is loaded from a file has these imported as it is.
    cfg.custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
    import_modules_from_strings(**cfg.custom_imports)
    lines = cfg.get('custom_hooks') or []
    options = [{**line, **hook} for line in lines if line.type == replaces == 'EMAHook']
    cfg.custom_hooks = [*(line for line in lines if line.type != replaces), *(options or [hook])]


class Training:
    """The runs of one row, each trained when it is first asked for.

    Args:
        row: Row of the table.
        folder: Where the runs write.
    """

    def __init__(self, row, folder):
        self.row, self.folder, self._errors = row, folder, {}

    def checkpoint(self, name, hook=STOCK, step=4, resume=None, replaces='EMAHook'):
        """A checkpoint of a run.

        Args:
            name: Names the run: one of the same name is not trained again.
            hook: What replaces the line.
            step: Iteration after which it was written.
            resume: Path of a checkpoint from which the run goes on.
            replaces: Type of the line that is switched; ``''`` adds our hook beside what there is.
        """
        path = self.path(name, step)
        if name in self._errors:
            raise self._errors[name]
        if not path.exists():
            cfg = small_config(self.row, path.parent)
            switch(cfg, hook, replaces)
            if resume:
                cfg.load_from, cfg.resume = str(resume), True
            try:
                Runner.from_cfg(cfg).train()
            except BaseException as error:
                self._errors[name] = error
                raise
        return load(path)

    def path(self, name, step=2):
        return self.folder / name / f'iter_{step}.pth'


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def tensors_of(checkpoint):
    """All weights of a checkpoint by name: of the student, the teacher, and the count of updates.

    With ``EMAHook`` and ours ``state_dict`` has the teacher and ``ema_state_dict`` the student.
    """
    parts = ('state_dict', 'ema_state_dict')
    return {
        f'{part}.{name}': value
        for part in parts
        for name, value in checkpoint.get(part, {}).items()
        if isinstance(value, torch.Tensor)
    }


def twice_averaged(checkpoint):
    """Names of tensors with several names in a model, such as RTMDet's shared convolutions.

    The stock average moves them once for each name where ``update_buffers`` is set.
    """
    found = {}
    for name, value in checkpoint['state_dict'].items():
        if value.numel():
            found.setdefault((value.data_ptr(), value.shape), []).append(name)
    names = {name for group in found.values() if len(group) > 1 for name in group}
    return {f'state_dict.{n}' for n in names} | {f'ema_state_dict.module.{n}' for n in names}


def comparable(checkpoint):
    """The weights in which the stock hook and ours have to agree.

    That is all but the teacher's counts of batches, which the stock average leaves at those of its
    first update if it averages buffers, and but tensors of several names.
    """
    twice = twice_averaged(checkpoint)
    return {
        name: value
        for name, value in tensors_of(checkpoint).items()
        if (value.is_floating_point() or name.endswith('.steps'))
        and (name not in twice or name.startswith('ema_state_dict.'))
    }


def farthest(ours, stock):
    """Name of the tensor that differs most, and by how much, relative to values beyond 1."""
    differences = {
        name: ((ours[name].double() - value.double()).abs() / value.double().abs().clamp(min=1))
        .nan_to_num(nan=math.inf)
        .max()
        .item()
        for name, value in stock.items()
        if value.numel()
    }
    return max(differences.items(), key=lambda item: item[1])


def student_and_teacher(checkpoint, row):
    """Two state dicts of a checkpoint with the same names.

    Args:
        checkpoint: A checkpoint.
        row: Row of the table.
    """
    state = checkpoint['state_dict']
    if row.averages:
        follows, prefix = row.averages.removesuffix('_ema') + '.', row.averages + '.'
        if f'{prefix}steps' in state:  # An averaged model, and not a mere copy.
            prefix += 'module.'
        teacher = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        return {k: state[follows + k] for k in teacher}, teacher
    ema = {k.removeprefix('module.'): v for k, v in checkpoint['ema_state_dict'].items()}
    return {k: ema[k] for k in state}, state


def far_apart(checkpoint, row, steps=2000):
    """A checkpoint whose teacher is far from its student and has had many updates.

    One update then shows the momentum that is in force.
    """
    checkpoint = copy.deepcopy(checkpoint)
    student, teacher = student_and_teacher(checkpoint, row)
    for name, value in teacher.items():
        if value.is_floating_point():
            value.copy_(student[name] + 1)
    part = checkpoint.get('ema_state_dict', checkpoint['state_dict'])
    part[f'{row.averages}.steps' if row.averages else 'steps'] = torch.tensor(steps)
    return checkpoint
