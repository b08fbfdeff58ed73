# SPDX-License-Identifier: Apache-2.0
"""The curves of a teacher in the log, and its picture in the visualizer, of real runs."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from se_mm.history.stages import stages
from se_mm.smoothing.options import OptionError

pytest.importorskip('mmpretrain')
STS = dict(type='SETMAHook', keep_prob=0.6, momentum=0.3, match_horizon=True)
LOGGER = dict(type='LoggerHook', interval=4)


@HOOKS.register_module(force=True)
class DistanceHook(Hook):
    """Works out for itself how far the teacher is from its student after each iteration."""

    priority = 'LOW'

    def __init__(self):
        self.distances, self.whole, self.moved = [], [], []
        self._before = None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        (hook,) = (h for h in runner.hooks if hasattr(h, 'teacher'))
        groups = {}
        pairs = hook.updater.smoother.named().values()
        for pair in pairs:
            group = groups.setdefault('.'.join(pair.name.split('.')[:-1][:2]), ([], []))
            group[0].append(pair.teacher.detach().double().flatten())
            group[1].append(pair.student.detach().double().flatten())
        self.distances.append(
            {
                name: float((torch.cat(t) - torch.cat(s)).norm() / torch.cat(s).norm())
                for name, (t, s) in groups.items()
            }
        )
        teacher, student = (
            torch.cat([t for group in groups.values() for t in group[i]]) for i in (0, 1)
        )
        self.whole.append(float((teacher - student).norm() / student.norm()))
        now = [pair.teacher.detach().clone() for pair in pairs]
        if self._before is not None:
            pairs = zip(self._before, now)
            self.moved.append([not torch.equal(before, after) for before, after in pairs])
        self._before = now


def scalars(runner):
    (path,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    found = {}
    for line in map(json.loads, path.read_text().splitlines()):
        if not any(key.startswith('accuracy/') for key in line):
            found.setdefault(line['step'], {}).update(line)
    return found


def test_log_has_the_curves_at_its_interval_and_they_are_right(runs):
    hooks = (dict(STS, granularity='tensor'), dict(type='DistanceHook'))
    runner = runs.classifier(*hooks, max_iters=12, default_hooks=dict(logger=LOGGER))
    seen = next(hook for hook in runner.hooks if isinstance(hook, DistanceHook))
    logged = scalars(runner)
    assert list(logged) == [4, 8, 12]
    for step, line in logged.items():
        assert line['teacher/keep_prob'] == 0.6
        assert line['teacher/momentum'] == pytest.approx(0.3 / 0.4)
        for stage, distance in seen.distances[step - 1].items():
            assert line[f'teacher/distance/{stage}'] == pytest.approx(distance, rel=1e-4)
        assert line['teacher/distance'] == pytest.approx(seen.whole[step - 1], rel=1e-4)
        # Since the last log; the copy at the first update counts for none.
        moved = seen.moved[max(0, step - 5) : step - 1]
        # The bias that batch norm takes out again never moves, taken over or not.
        names = [
            name
            for name in next(
                h for h in runner.hooks if hasattr(h, 'updater')
            ).updater.smoother.named()
        ]
        still = names.index('backbone.conv.bias')
        share = sum(m for row in moved for i, m in enumerate(row) if i != still) / (
            len(moved) * (len(names) - 1)
        )
        assert abs(line['teacher/taken'] - share) <= 1 / len(names)
    tagged = [name for name in runner.message_hub.log_scalars if name.startswith('train/teacher/')]
    # What stands on a line of the terminal.
    assert {name.removeprefix('train/teacher/') for name in tagged} == {
        'keep_prob',
        'momentum',
        'taken',
        'distance',
    }


def test_share_of_many_units_is_that_of_the_picks(runs):
    hook = dict(type='SpatialEnsembleHook', keep_prob=0.8, granularity='element')
    runner = runs.byol(hook, max_iters=40, default_hooks=dict(logger=dict(interval=39)))
    line = list(scalars(runner).values())[-1]
    assert line['teacher/taken'] == pytest.approx(0.2, abs=0.01)
    assert 'teacher/momentum' not in line


def test_nothing_is_computed_between_two_logs(runs, monkeypatch):
    calls = []
    from se_mm.engine.hooks import teacher_curves

    original = teacher_curves.TeacherCurves._distances
    monkeypatch.setattr(
        teacher_curves.TeacherCurves,
        '_distances',
        lambda self: calls.append(self._updater.ensemble.step) or original(self),
    )
    runs.classifier(dict(STS), max_iters=12, default_hooks=dict(logger=LOGGER))
    assert calls == [4, 8, 12]


def test_curves_can_be_switched_off(runs):
    runner = runs.classifier(
        dict(STS, curves=False), max_iters=4, default_hooks=dict(logger=LOGGER)
    )
    (line,) = scalars(runner).values()
    assert not [name for name in line if name.startswith('teacher/')]


def test_stages_are_as_deep_as_there_are_few_enough_of_them():
    names = [f'backbone.layer{i}.{j}.conv.weight' for i in range(1, 5) for j in range(3)]
    names += ['neck.fc0.weight', 'neck.fc0.bias', 'scale']
    found = stages(names)
    assert list(found) == [*(f'backbone.layer{i}' for i in range(1, 5)), 'neck.fc0', 'scale']
    assert [name for group in found.values() for name in group] == names
    assert list(stages(names, most=3)) == ['backbone', 'neck', 'scale']


@pytest.mark.parametrize('by_epoch', [False, True])
def test_picture_goes_to_every_backend_of_the_visualizer(runs, by_epoch):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    visualizer = dict(
        type='Visualizer',
        vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
    )
    loop = dict(type='EpochBasedTrainLoop', max_epochs=2) if by_epoch else None
    runner = runs.classifier(
        dict(STS),
        dict(type='TeacherHistoryHook', interval=1 if by_epoch else 6, by_epoch=by_epoch),
        max_iters=12,
        visualizer=visualizer,
        **(dict(train_cfg=loop) if loop else {}),
    )
    folder = next(Path(runner.work_dir).glob('*/vis_data'))
    pictures = sorted(path.name for path in folder.glob('vis_image/teacher_history_*.png'))
    assert pictures == ['teacher_history_12.png', 'teacher_history_6.png']
    found = events.EventAccumulator(str(folder), size_guidance={'images': 0}).Reload()
    assert [image.step for image in found.Images('teacher_history')] == [6, 12]


def test_picture_needs_a_teacher_that_our_hook_updates(runs):
    runner = runs.build(runs.cfg_of('classifier'), dict(type='TeacherHistoryHook'))
    with pytest.raises(OptionError, match='needs a SETMAHook or SpatialEnsembleHook'):
        runner.train()
    with pytest.raises(OptionError, match='interval must be an integer >= 1, got 0'):
        HOOKS.build(dict(type='TeacherHistoryHook', interval=0))
