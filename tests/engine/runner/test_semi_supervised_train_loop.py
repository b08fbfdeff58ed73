# SPDX-License-Identifier: Apache-2.0
"""Semi-supervised runs through MMEngine's Runner: data, checks, logs and evaluation."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from se_mm.datasets import LabelSplit, SemiSupervisedDataset
from se_mm.engine import ResumableRunner
from se_mm.smoothing import OptionError

STS = dict(type='SETMAHook', keep_prob=0.7)


@HOOKS.register_module(force=True)
class RecordBatchesHook(Hook):
    """Keeps each batch's labels, and a number that no other batch of views has."""

    def __init__(self):
        self.batches = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        views = torch.stack(
            [view.double().sum((1, 2, 3)) for view in data_batch['inputs']['views']]
        )
        self.batches[runner.iter] = (data_batch['data_samples']['labels'].tolist(), views.tolist())


def batches_of(runner):
    return next(h for h in runner.hooks if isinstance(h, RecordBatchesHook)).batches


def test_data_of_a_resumed_run_go_on_without_reading_what_came_before(runs, monkeypatch):
    whole = runs.pair(STS, dict(type='RecordBatchesHook'), cls=ResumableRunner)
    read = []
    original = SemiSupervisedDataset.__getitem__
    monkeypatch.setattr(
        SemiSupervisedDataset,
        '__getitem__',
        lambda self, index: (read.append(int(index)), original(self, index))[1],
    )
    resumed = runs.pair(
        STS,
        dict(type='RecordBatchesHook'),
        cls=ResumableRunner,
        load_from=f'{whole.work_dir}/iter_3.pth',
        resume=True,
    )
    expected = {step: batch for step, batch in batches_of(whole).items() if step >= 3}
    assert batches_of(resumed) == expected
    assert len(read) == 2 + 3 * (4 + 8)  # Two that try the pipelines, and three batches.


def test_data_of_a_run_without_a_seed_in_the_config_go_on_too(runs):
    options = dict(randomness=dict(seed=None), cls=ResumableRunner)
    whole = runs.pair(STS, dict(type='RecordBatchesHook'), **options)
    resumed = runs.pair(
        STS,
        dict(type='RecordBatchesHook'),
        load_from=f'{whole.work_dir}/iter_3.pth',
        resume=True,
        **options,
    )
    assert batches_of(resumed) == {k: v for k, v in batches_of(whole).items() if k >= 3}


def test_order_does_not_depend_on_the_number_of_workers(runs):
    here = runs.pair(STS, dict(type='RecordBatchesHook'), cls=ResumableRunner)
    workers = runs.pair(
        STS,
        dict(type='RecordBatchesHook'),
        cls=ResumableRunner,
        train_dataloader=dict(num_workers=2, persistent_workers=False),
    )
    assert batches_of(here) == batches_of(workers)


def test_split_is_left_in_the_work_dir_and_is_the_one_that_was_used(runs):
    runner = runs.pair(STS, max_iters=2)
    split = LabelSplit.load(str(Path(runner.work_dir) / 'split.json'))
    assert split == runner.train_dataloader.dataset.split
    assert len(split.indices) == 10


def test_resume_with_other_labelled_images_is_refused(runs, pair_cfg):
    first = runs.pair(STS, max_iters=3)
    other = runs.build(
        pair_cfg,
        STS,
        work_dir=first.work_dir,
        resume=True,
        train_dataloader=dict(dataset=dict(split=dict(seed=1))),
    )
    with pytest.raises(OptionError, match='labelled images must stay those of'):
        other.train()


def test_log_has_the_losses_and_the_quality_of_the_pseudo_labels(runs):
    # The first of 10 classes has a probability of 0.1 at least: some are accepted.
    runner = runs.pair(
        STS,
        model=dict(threshold=0.09),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2)),
    )
    (path,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    logged = [line for line in lines if 'loss' in line][-1]
    assert {'loss_labelled', 'loss_unlabelled', 'mask_rate', 'pseudo_label_acc'} <= set(logged)
    assert logged['loss'] == pytest.approx(
        logged['loss_labelled'] + logged['loss_unlabelled'], abs=1e-4
    )
    assert logged['mask_rate'] == 1
    assert 0 <= logged['pseudo_label_acc'] <= 100
    histograms = [line for line in lines if 'pseudo_labels/0' in line]
    for histogram in histograms:
        assert sum(v for k, v in histogram.items() if k != 'step') == pytest.approx(1)
    assert len(histograms) == sum('accepted_acc' in line for line in lines) > 0


def test_both_networks_are_evaluated_and_named(runs):
    runner = runs.pair(dict(type='SpatialEnsembleHook', keep_prob=0))
    metrics = {
        who: runner.message_hub.get_scalar(f'val/{who}/accuracy/top1').current()
        for who in ('teacher', 'student')
    }
    # A copy in evaluation mode predicts the same.
    assert metrics['teacher'] == metrics['student'] > 0


@pytest.mark.parametrize('on', ['teacher', 'student'])
def test_one_network_is_evaluated_as_by_mmengines_own_loop(runs, on):
    runner = runs.pair(STS, val_cfg=dict(type='TeacherStudentLoop', on=on))
    names = [name for name in runner.message_hub.log_scalars if name.startswith('val/')]
    assert f'val/{on}/accuracy/top1' in names
    assert not any(other in name for name in names for other in {'teacher', 'student'} - {on})
    plain = runs.pair(STS, val_cfg=dict(type='ValLoop'), model=dict(predict_on=on))
    ours = runner.message_hub.get_scalar(f'val/{on}/accuracy/top1').current()
    assert plain.message_hub.get_scalar('val/accuracy/top1').current() == ours


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(hooks=[]), "hook that updates the teacher of FixMatch: add dict.type='SETMAHook'"),
        (
            dict(model=dict(classifier=dict(head=dict(num_classes=7)))),
            'head.num_classes must be 10, the number of classes of .*labelled .*, got 7',
        ),
        (
            dict(train_dataloader=dict(batch_sampler=dict(mu=0))),
            'mu must be an integer >= 1, got 0',
        ),
        (
            dict(
                train_dataloader=dict(
                    batch_sampler=dict(_delete_=True, type='MultiSourceBatchSampler'),
                    dataset=dict(unlabelled=False),
                )
            ),
            'FixMatch needs unlabelled images',
        ),
        (
            dict(train_dataloader=dict(dataset=dict(unlabelled=False))),
            'mu must be left out for a data set without unlabelled images, got 2',
        ),
        (
            dict(val_cfg=dict(on='techer')),
            "on must be one of .*got 'techer'.*Did you mean 'teacher'",
        ),
        (dict(val_cfg=dict(on=[])), r'on must be one or both of teacher, student, got \[\]'),
        (
            dict(default_hooks=dict(pseudo_labels=dict(interval=0))),
            r'interval must be .*got 0',
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else '',
)
def test_run_that_cannot_come_to_anything_is_refused(runs, pair_cfg, changes, message):
    hooks = changes.pop('hooks', [STS])
    with pytest.raises(OptionError, match=message) as error:
        runs.build(pair_cfg, *hooks, **changes).train()
    assert '\n' not in str(error.value)


def test_mean_teacher_hook_of_mmdet_may_move_the_teacher(runs):
    pytest.importorskip('mmdet')
    assert runs.pair(dict(type='mmdet.MeanTeacherHook'), max_iters=2).iter == 2


def test_pseudo_label_hook_is_refused_without_pseudo_labels(runs, classifier_cfg):
    runner = runs.build(classifier_cfg, dict(type='PseudoLabelHook'))
    with pytest.raises(OptionError, match=r'PseudoLabelHook needs .*got ImageClassifier'):
        runner.train()
