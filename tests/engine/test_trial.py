# SPDX-License-Identifier: Apache-2.0
"""Validation is tried before training, says what is wrong, and changes nothing of the run."""

import copy
import random
import uuid

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, DumpResults
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, LOOPS, METRICS
from mmengine.runner import Runner, ValLoop

from se_mm.engine.runner.resumable_runner import ResumableRunner
from se_mm.engine.trial import LEAST, TrialHook, try_validation
from se_mm.smoothing.options import OptionError

SHADOW = dict(type='SETMAHook', keep_prob=0.5, evaluate_on='both')
PROBES = dict(
    type='ProbeLoop',
    bank=dict(batch_size=8, num_workers=0, dataset=dict(type='LabelledDigits')),
    probes=[dict(type='KNNProbe', k=20)],
)


def logs_of(runner):
    """All that a run has logged, but times."""
    return {
        name: history.data[0].tolist()
        for name, history in runner.message_hub.log_scalars.items()
        if 'time' not in name and 'memory' not in name
    }


def trained(runs, kind, *hooks, trial, cls=Runner, **changes):
    """A run to its end, with or without a trial."""
    cfg_of = runs.cfg_of(kind)
    runs.count += 1
    name = f'{runs.folder.name}-trial-{runs.count}'
    folder = runs.folder / str(runs.count)
    runner = cls.from_cfg(cfg_of(folder, hooks, experiment_name=name, **copy.deepcopy(changes)))
    if trial:
        runner.register_hook(TrialHook())
    runner.train()
    return runner


@pytest.mark.parametrize('cls', [Runner, ResumableRunner])
@pytest.mark.parametrize(
    'kind, hooks, changes',
    [
        ('classifier', [SHADOW], {}),
        ('classifier', [dict(type='EMAHook')], {}),
        ('pair', [dict(type='SETMAHook', keep_prob=0.5)], {}),
        ('classifier', [SHADOW], dict(val_cfg=PROBES)),
    ],
    ids=['shadow', 'stock average', 'pair', 'probes'],
)
def test_run_is_bit_by_bit_the_one_without_a_trial(runs, cls, kind, hooks, changes):
    train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=2)
    if kind == 'pair':
        train_cfg['type'] = 'SemiSupervisedTrainLoop'
    changes = dict(changes, train_cfg=train_cfg)
    with_trial, without = (
        trained(runs, kind, *hooks, trial=trial, cls=cls, **changes) for trial in (True, False)
    )
    assert logs_of(with_trial) == logs_of(without)
    left, right = with_trial.model.state_dict(), without.model.state_dict()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


class Stateful(BaseModel):
    """A model that counts, draws and logs when it predicts."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1).eval()
        self.register_buffer('count', torch.zeros(()))

    def forward(self, inputs, mode='tensor'):
        if mode == 'loss':
            return dict(loss=self.fc(inputs[0][:, None].float()).sum())
        self.count = self.count + len(inputs[0])
        random.random(), np.random.rand(), torch.rand(())
        return [dict(value=float(value)) for value in inputs[0]]


@METRICS.register_module(force=True)
class Spread(BaseMetric):
    """The least and the greatest of the images that were seen, by a count of its own."""

    def __init__(self, names=('least', 'greatest', 'acc')):
        super().__init__()
        self.names, self.seen = names, []

    def process(self, data_batch, data_samples):
        self.results.extend(sample['value'] for sample in data_samples)
        self.seen += [sample['value'] for sample in data_samples]

    def compute_metrics(self, results):
        values = min(results), max(results), len(results)
        return dict(zip(self.names, values))


@HOOKS.register_module(force=True)
class PreparesHook(Hook):
    """Prepares each validation, as hooks that fill a model's prototypes do."""

    def __init__(self):
        self.count = 0

    def before_val(self, runner):
        self.count += 1
        runner.model.count.fill_(100)


@HOOKS.register_module(force=True)
class AddsMetricHook(Hook):
    """Adds a metric of its own."""

    def after_val_epoch(self, runner, metrics=None):
        metrics['added/acc'] = 1.0


class Looking(Hook):
    """Keeps the state of a run before its first iteration."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.drawn = random.random(), np.random.rand(), float(torch.rand(()))


@pytest.fixture
def stateful(tmp_path):
    """Makes a runner of a stateful model on 40 numbers."""

    def make(*hooks, metric='Spread', names=None, batch_size=2, **changes):
        loader = dict(
            batch_size=batch_size,
            num_workers=0,
            dataset=list(range(40)),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=lambda items: dict(inputs=[torch.tensor(items)]),
        )
        options = dict(
            model=Stateful(),
            train_dataloader=loader,
            val_dataloader=loader,
            val_evaluator=[dict(type=metric, **(dict(names=names) if names is not None else {}))],
            val_cfg=dict(),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            custom_hooks=list(hooks),
            work_dir=str(tmp_path),
            experiment_name=uuid.uuid4().hex,
            randomness=dict(seed=0),
            log_level='ERROR',
        )
        runner = Runner(**{**options, **changes})
        return runner

    return make


def test_nothing_is_left_of_a_trial(stateful):
    def looked(trial):
        runner = stateful(dict(type='PreparesHook'))
        look = Looking()
        runner.register_hook(look)
        runner.call_hook('before_run')
        if trial:
            try_validation(runner)
        look.before_train(runner)
        hook = next(hook for hook in runner.hooks if isinstance(hook, PreparesHook))
        modes = [module.training for module in runner.model.modules()]
        seen = runner.val_loop.evaluator.metrics[0].seen
        return look.drawn, hook.count, float(runner.model.count), modes, seen, logs_of(runner)

    before = looked(trial=False)
    assert before[1:3] == (0, 0.0) and before[4] == []
    assert before[3] == [True, True, True, False]  # With the data preprocessor.
    assert looked(trial=True) == before


@pytest.mark.parametrize('batch_size', [1, 2, 8, 40])
def test_few_images_are_tried_from_all_over_the_data_set(stateful, batch_size):
    metrics = try_validation(stateful(batch_size=batch_size))
    assert metrics['acc'] == min(max(batch_size, LEAST), 32)
    assert metrics['least'] == 0 and metrics['greatest'] >= 30


def test_hook_that_prepares_a_validation_takes_part(stateful):
    runner = stateful(dict(type='PreparesHook'))
    counts = []
    forward = runner.model.forward

    def counted(*args, **kwargs):
        counts.append(float(runner.model.count))
        return forward(*args, **kwargs)

    runner.model.forward = counted
    try_validation(runner)
    assert counts[0] == 100


def test_predictions_are_not_written(stateful, tmp_path):
    runner = stateful()
    runner.val_loop.evaluator.metrics.append(DumpResults(str(tmp_path / 'predictions.pkl')))
    try_validation(runner)
    assert not (tmp_path / 'predictions.pkl').exists()


class Annotations:
    """What pycocotools reads an annotation file into; it cannot be copied."""

    loadRes = None

    def __deepcopy__(self, memo):
        raise AssertionError


@pytest.mark.parametrize('annotated', [True, False])
def test_tables_of_coco_are_not_printed_and_its_annotations_not_copied(
    stateful, capsys, monkeypatch, annotated
):
    runner = stateful()
    metric = runner.val_loop.evaluator.metrics[0]
    if annotated:
        metric._coco_api = Annotations()
    compute = Spread.compute_metrics
    monkeypatch.setattr(Spread, 'compute_metrics', lambda *a: print('AP') or compute(*a))
    assert try_validation(runner)['acc'] == LEAST
    assert ('AP' in capsys.readouterr().out) is not annotated


@METRICS.register_module(force=True)
class CocoPanopticMetric(Spread):
    """A metric that fails unless it sees all images."""


def test_validation_that_needs_all_images_or_cannot_be_copied_is_not_tried(stateful):
    assert try_validation(stateful(metric='CocoPanopticMetric')) is None
    runner = stateful()
    with open(__file__) as file:
        runner.val_loop.evaluator.metrics[0].file = file
        assert try_validation(runner) is None


SAVE = dict(checkpoint=dict(type='CheckpointHook', save_best='ac', rule='greater'))
STOP = dict(type='EarlyStoppingHook', monitor='ac', rule='greater')
PLATEAU = dict(type='ReduceOnPlateauLR', monitor='ac', rule='greater')


@pytest.mark.parametrize(
    'hooks, changes, key',
    [
        ([], dict(default_hooks=SAVE), 'default_hooks.checkpoint.save_best'),
        ([STOP], {}, 'monitor of EarlyStoppingHook'),
        ([], dict(param_scheduler=PLATEAU), 'monitor of ReduceOnPlateauLR'),
    ],
    ids=['save_best', 'early stopping', 'plateau'],
)
def test_monitor_that_does_not_exist_is_one_line_before_training(stateful, hooks, changes, key):
    runner = stateful(*hooks, **changes)
    runner.register_hook(TrialHook())
    with pytest.raises(OptionError) as caught:
        runner.train()
    assert runner.iter == 0
    assert str(caught.value) == (
        f"{key} must be a metric of the validation, least, greatest, acc, got 'ac'. "
        f"Did you mean 'acc'?"
    )


def test_metric_that_a_users_hook_may_add_is_a_warning(stateful):
    save = dict(type='CheckpointHook', by_epoch=False, save_best='added/acc', rule='greater')
    hook = dict(type='AddsMetricHook', priority='HIGHEST')
    runner = stateful(hook, default_hooks=dict(checkpoint=save))
    runner.register_hook(TrialHook())
    warned = []
    runner.logger.warning = lambda message, *_: warned.append(str(message))
    runner.train()
    assert any('added/acc' in message for message in warned)


def test_images_that_give_no_metric_are_no_error(stateful):
    stop = dict(type='EarlyStoppingHook', monitor='acc')
    runner = stateful(stop, names=())
    runner.register_hook(TrialHook())
    assert try_validation(runner) == {}
    runner.train()


@METRICS.register_module(force=True)
class Failing(BaseMetric):
    """A user's metric with a mistake in it."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {}['mistake']


def test_error_of_a_metric_stays_what_it_is_and_comes_before_training(stateful):
    runner = stateful(metric='Failing')
    runner.register_hook(TrialHook())
    said = []
    runner.logger.error = lambda message, *_: said.append(str(message))
    with pytest.raises(KeyError, match='mistake'):
        runner.train()
    assert runner.iter == 0
    (line,) = said
    assert '--no-check' in line


@LOOPS.register_module(force=True)
class NeverLoop(ValLoop):
    """A validation that fails."""

    def run(self):
        raise AssertionError


@pytest.mark.parametrize('changes', [{}, dict(val_begin=3)], ids=['no validation', 'too late'])
def test_validation_that_never_comes_is_not_tried(stateful, changes):
    if changes:
        options = dict(val_cfg=dict(type='NeverLoop'))
        options['train_cfg'] = dict(type='IterBasedTrainLoop', max_iters=2, **changes)
    else:
        options = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
    runner = stateful(**options)
    runner.register_hook(TrialHook())
    runner.train()
    assert runner.iter == 2
