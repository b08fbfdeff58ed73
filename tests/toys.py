# SPDX-License-Identifier: Apache-2.0
"""Toy models with teachers as third-party code has them, trained by MMEngine's Runner."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel, BaseTTAModel, ExponentialMovingAverage
from mmengine.registry import HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn

import se_mm  # noqa: F401  (registers the hooks)

TMA = dict(type='SETMAHook', keep_prob=0.0)
STS = dict(type='SETMAHook', keep_prob=0.5)
SE = dict(type='SpatialEnsembleHook', keep_prob=0.5)
EMA = dict(type='EMAHook', momentum=0.1)


class Sums(torch.utils.data.Dataset):
    """Vectors of six numbers and their sums."""

    def __init__(self):
        self.inputs = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], self.inputs[index].sum(0, keepdim=True)


def loader(sampler='DefaultSampler'):
    """The config of a data loader of them."""
    return dict(
        batch_size=4,
        num_workers=0,
        dataset=Sums(),
        sampler=dict(type=sampler, shuffle=False),
        collate_fn=dict(type='default_collate'),
    )


@METRICS.register_module(force=True)
class MeanLoss(BaseMetric):
    """The mean of the losses that a model gives when it is evaluated."""

    def process(self, data_batch, data_samples):
        self.results.append(float(data_samples[0]))

    def compute_metrics(self, results):
        return {'loss': sum(results) / len(results)}


class Toy(BaseModel):
    """A model whose ``predict`` gives the numbers and whose evaluation the loss."""

    def predict(self, inputs):
        raise NotImplementedError

    def loss(self, inputs, sums):
        return {'loss': F.mse_loss(self.predict(inputs), sums)}

    def forward(self, inputs, sums=None, mode='tensor'):
        if mode == 'loss':
            return self.loss(inputs, sums)
        predicted = self.predict(inputs)
        return [F.mse_loss(predicted, sums)] if mode == 'predict' else predicted


@MODELS.register_module(force=True)
class Plain(Toy):
    """A network without a teacher."""

    def __init__(self, outputs=1, perfect=False):
        super().__init__()
        self.perfect = perfect
        self.backbone, self.head = nn.Linear(6, 6), nn.Linear(6, outputs)

    def init_weights(self):
        """As a pretrained model has: here one that is right."""
        if self.perfect:
            for layer, weight in ((self.backbone, torch.eye(6)), (self.head, torch.ones(1, 6))):
                layer.weight.data.copy_(weight)
                layer.bias.data.zero_()

    def predict(self, inputs):
        return self.head(self.backbone(inputs)).mean(1, keepdim=True)


@MODELS.register_module(force=True)
class Momentum(Toy):
    """An encoder and its average, as in BYOL; ``asks`` says how it asks for the update."""

    def __init__(self, average=ExponentialMovingAverage, asks='plain', **options):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
        self.target = average(self.encoder, **{'momentum': 0.1, **options})
        self.asks = asks
        self.iters = 0
        if asks == 'list':
            self.others = [self.target]
        if asks == 'second name':
            self.teachers = nn.ModuleDict({'main': self.target})

    def predict(self, inputs):
        return self.encoder(inputs)

    def update(self):
        if self.asks == 'list':
            self.others[0].update_parameters(self.encoder)
        elif self.asks == 'second name':
            self.teachers['main'].update_parameters(self.encoder)
        elif self.asks == 'after a start':
            # As averages of GANs: equal to the student until they start.
            start = self.iters < 5
            (self.target.sync_parameters if start else self.target.update_parameters)(self.encoder)
        elif self.asks == 'plain':
            self.target.update_parameters(self.encoder)

    def loss(self, inputs, sums):
        self.update()
        self.iters += 1
        with torch.no_grad():
            target = self.target(inputs)
        found = self.encoder(inputs)
        return {'loss': F.mse_loss(found, sums), 'loss_target': 0.1 * F.mse_loss(found, target)}


class SyncedAverage(ExponentialMovingAverage):
    """An average with methods and a forward of its own."""

    def sync_parameters(self, model):
        for mine, theirs in zip(self.module.parameters(), model.parameters()):
            mine.data.copy_(theirs)

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) * 2


@MODELS.register_module(force=True)
class ToyMeanTeacher(Toy):
    """A student and a teacher of the same class, one of which labels for the other."""

    def __init__(self, student='student', teacher='teacher', perfect=False):
        super().__init__()
        torch.manual_seed(0)
        self.names = student, teacher
        for name in self.names:
            setattr(self, name, nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)))
        self.get_submodule(teacher).requires_grad_(False)
        if perfect:
            self.load_teacher()

    def load_teacher(self):
        """Weights that some training found."""
        for tensor in self.get_submodule(self.names[1]).state_dict().values():
            tensor.fill_(0.5)

    def predict(self, inputs):
        return getattr(self, self.names[0])(inputs)

    def loss(self, inputs, sums):
        with torch.no_grad():
            target = getattr(self, self.names[1])(inputs)
        found = self.predict(inputs)
        return {'loss': F.mse_loss(found, sums), 'loss_target': 0.1 * F.mse_loss(found, target)}


def mix(teacher, student, share=0.5):
    """A moving average, written by hand as in many a repository."""
    with torch.no_grad():
        for mine, theirs in zip(teacher.parameters(), student.parameters()):
            mine.mul_(1 - share).add_(theirs, alpha=share)


@MODELS.register_module(force=True)
class MovesInTrainStep(ToyMeanTeacher):
    """A mean teacher that its model moves in ``train_step``."""

    def train_step(self, data, optim_wrapper):
        losses = super().train_step(data, optim_wrapper)
        mix(self.teacher, self.student)
        return losses


@MODELS.register_module(force=True)
class MovesByMethod(ToyMeanTeacher):
    """A mean teacher that its model moves by a method of its own."""

    def ema_update(self, share=0.5):
        mix(self.teacher, self.student, share)

    def loss(self, inputs, sums):
        self.ema_update()
        return super().loss(inputs, sums)


@MODELS.register_module(force=True)
class Nested(Toy):
    """A wrapper around a mean teacher, one level down."""

    def __init__(self):
        super().__init__()
        self.model = ToyMeanTeacher()

    def predict(self, inputs):
        return self.model.predict(inputs)

    def loss(self, inputs, sums):
        return self.model.loss(inputs, sums)


@HOOKS.register_module(force=True)
class ForeignMeanTeacherHook(Hook):
    """A mean-teacher hook of another library, under a name that nobody can know."""

    def __init__(self, share=0.5, start=0, teacher='teacher', student='student'):
        self.share, self.start, self.names = share, start, (teacher, student)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter >= self.start:
            mix(*(runner.model.get_submodule(name) for name in self.names), self.share)


@MODELS.register_module(force=True)
class ToyTTA(BaseTTAModel):
    """Test-time augmentation that changes nothing."""

    def test_step(self, data):
        return self.module.test_step(data)

    def merge_preds(self, data_samples_list):
        return data_samples_list[0]


@HOOKS.register_module(force=True)
class AtStartHook(Hook):
    """Calls a function with the runner before the first iteration, once all else is ready."""

    priority = 'LOWEST'

    def __init__(self, look):
        self.look = look

    def before_train(self, runner):
        self.found = self.look(runner)


class Toys:
    """Starts runs of toy models below a folder."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0

    def build(self, model, *hooks, iters=6, cls=Runner, **changes):
        """A runner that is not started."""
        self.count += 1
        lr = changes.pop('lr', 0.05)
        torch.manual_seed(0)
        return cls(
            **{
                'model': model() if isinstance(model, type) else model,
                'work_dir': str(self.folder / str(self.count)),
                'train_dataloader': loader('InfiniteSampler'),
                'train_cfg': dict(by_epoch=False, max_iters=iters),
                'optim_wrapper': dict(optimizer=dict(type='SGD', lr=lr)),
                'custom_hooks': [dict(h) if isinstance(h, dict) else h for h in hooks],
                'default_hooks': dict(logger=None, checkpoint=None),
                'experiment_name': f'{self.folder.name}-toy-{self.count}',
                'randomness': dict(seed=0),
                'log_level': 'ERROR',
                **changes,
            }
        )

    def train(self, *args, **changes):
        """A run, trained."""
        runner = self.build(*args, **changes)
        runner.train()
        return runner

    def test(self, model, *hooks, load_from=None, **changes):
        """The mean loss of a test."""
        runner = self.build(
            model,
            *hooks,
            load_from=load_from,
            test_dataloader=loader(),
            test_cfg=dict(),
            test_evaluator=dict(type='MeanLoss'),
            **{'train_dataloader': None, 'train_cfg': None, 'optim_wrapper': None, **changes},
        )
        return runner.test()['loss']


SAVING = dict(logger=None, checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))
VALIDATING = dict(val_dataloader=loader(), val_cfg=dict(), val_evaluator=dict(type='MeanLoss'))


def hook_of(runner, kind=None):
    """Our hook of a run, or the one of a type."""
    return next(
        h
        for h in runner.hooks
        if (hasattr(h, 'updater') if kind is None else type(h).__name__ == kind)
    )


def shadow_of(runner):
    """The copy that a run's hook keeps, ours or the stock one."""
    for hook in runner.hooks:
        if hasattr(hook, 'updater'):
            return hook.teacher.module
        if hasattr(hook, 'ema_model'):
            return hook.ema_model.module
    raise AssertionError('no hook keeps a copy')


def state_of(module):
    """The tensors of a module, copied."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_close(one, other, **tolerance):
    """Two modules or state dicts have equal floating-point tensors."""
    one, other = (m.state_dict() if isinstance(m, nn.Module) else m for m in (one, other))
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value.is_floating_point():
            torch.testing.assert_close(
                value, other[name], msg=lambda m, n=name: f'{n}: {m}', **tolerance
            )


@pytest.fixture
def toys(tmp_path):
    """Starts runs of toy models."""
    return Toys(tmp_path)
