# SPDX-License-Identifier: Apache-2.0
"""The history in a checkpoint says of each unit what really happened to it in the training."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from se_mm.checkpoints.read import read_checkpoint
from se_mm.engine.hooks.record import read_record
from se_mm.history.provenance import BEFORE, provenance
from se_mm.history.segments import read_history
from se_mm.smoothing.options import OptionError

pytest.importorskip('mmpretrain')
SE = dict(type='SpatialEnsembleHook', keep_prob=0.6)
STS = dict(type='SETMAHook', keep_prob=0.6, momentum=0.3, buffers='copy')
UPDATES = 14


@HOOKS.register_module(force=True)
class SeenHook(Hook):
    """Keeps the teacher and its student after each update; looks at values, and at no pick."""

    priority = 'LOW'

    def __init__(self):
        self.teachers, self.students = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        (hook,) = (h for h in runner.hooks if hasattr(h, 'teacher'))
        for seen, who in ((self.teachers, 'teacher'), (self.students, 'student')):
            pairs = hook.updater.smoother.pairs.values()
            seen.append({pair.name: getattr(pair, who).detach().clone() for pair in pairs})


def seen_of(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, SeenHook))


def split(tensor, granularity):
    """A tensor as units x numbers."""
    if granularity == 'element':
        return tensor.reshape(-1, 1)
    return (
        tensor.reshape(tensor.shape[0], -1) if granularity == 'channel' else tensor.reshape(1, -1)
    )


def happened(seen, name, granularity, momentum):
    """Update at which each unit last moved and mean age of what it holds, from values alone."""
    teachers = [split(teacher[name], granularity) for teacher in seen.teachers]
    students = [split(student[name], granularity) for student in seen.students]
    taken = torch.zeros(len(teachers[0]), dtype=torch.long)
    age = torch.zeros(len(teachers[0]), dtype=torch.float64)
    for update in range(1, len(teachers)):
        before, now = teachers[update - 1], teachers[update]
        moved = (before != now).any(1)
        # A unit that equals its student already does not show whether it was taken over.
        assert ((before != students[update]).any(1)).all(), name
        expected = students[update] if momentum is None else before.lerp(students[update], momentum)
        torch.testing.assert_close(now[moved], expected[moved])
        age = torch.where(moved, (1 - (momentum or 1.0)) * (age + 1), age + 1)
        taken[moved] = update
    return taken, age


def of_checkpoint(path, **options):
    record = read_record(read_checkpoint(path))
    return provenance(read_history(record['history'], record['step']), record['step'], **options)


def moving(name):
    """Whether all units of a tensor change at every iteration of the small classifier."""
    return 'conv.bias' not in name  # Its batch norm takes it out again.


TABLE = [
    dict(SE),
    dict(STS),
    dict(SE, granularity='layer'),
    dict(SE, granularity='channel'),
    dict(STS, granularity='channel'),
    dict(SE, granularity='element'),
    dict(STS, granularity='element', seed=5),
    dict(SE, interval=2),
    dict(SE, granularity='channel', keep_prob=dict(type='linear', start=0.2, end=0.9)),
    dict(STS, begin_iter=3),
]


@pytest.mark.parametrize('hook', TABLE, ids=lambda hook: ' '.join(map(str, hook.values())))
def test_history_of_every_unit_is_the_one_seen_in_training(runs, hook):
    runner = runs.classifier(hook, dict(type='SeenHook'), max_iters=UPDATES)
    seen = seen_of(runner)
    # Smoothing begins once the student was trained for so many iterations.
    begin = max(0, hook.get('begin_iter', 0) - 1)
    seen.teachers, seen.students = seen.teachers[begin:], seen.students[begin:]
    granularity = hook.get('granularity', 'tensor')
    found = of_checkpoint(f'{runner.work_dir}/iter_{UPDATES}.pth')
    assert found.updates == UPDATES - begin
    names = list(smoothed(runner))
    assert [tensor.name for tensor in found.tensors] == names
    total, whole = 0.0, 0
    for tensor in found.tensors:
        numbers = seen.teachers[0][tensor.name].numel()
        whole += numbers
        if not moving(tensor.name):
            continue
        taken, age = happened(seen, tensor.name, granularity, hook.get('momentum'))
        assert torch.equal(tensor.taken, taken), tensor.name
        torch.testing.assert_close(tensor.age, age, msg=tensor.name)
        total += numbers
    assert total > 0.9 * whole
    assert float(found.share.sum()) + found.before == pytest.approx(1)


def smoothed(runner):
    """The pairs of a run's teacher, by name."""
    (hook,) = (hook for hook in runner.hooks if hasattr(hook, 'updater'))
    return hook.updater.smoother.named()


def test_overrides_have_histories_of_their_own_and_what_follows_has_none(runs):
    overrides = {'norm': dict(keep_prob=0.3, granularity='channel'), 'head': 'copy'}
    hook = dict(SE, overrides=overrides, buffers='average')
    runner = runs.classifier(hook, dict(type='SeenHook'), max_iters=UPDATES)
    found = of_checkpoint(f'{runner.work_dir}/iter_{UPDATES}.pth')
    histories = {tensor.name: tensor for tensor in found.tensors}
    assert set(histories) == {
        'backbone.conv.weight',
        'backbone.conv.bias',
        'backbone.norm.weight',
        'backbone.norm.bias',
        'backbone.norm.running_mean',
        'backbone.norm.running_var',
    }
    for name, granularity in (('norm.weight', 'channel'), ('conv.weight', 'tensor')):
        taken, _ = happened(seen_of(runner), f'backbone.{name}', granularity, None)
        assert torch.equal(histories[f'backbone.{name}'].taken, taken)
    weight, bias = histories['backbone.norm.weight'], histories['backbone.norm.bias']
    assert torch.equal(weight.keys, bias.keys) and torch.equal(weight.taken, bias.taken)


def test_history_goes_on_over_a_resume_with_other_options(runs):
    first = runs.classifier(dict(SE), dict(type='SeenHook'), max_iters=6)
    other = dict(STS, granularity='channel', seed=3)
    second = runs.classifier(
        other,
        dict(type='SeenHook'),
        max_iters=UPDATES,
        work_dir=first.work_dir,
        resume=True,
        load_from=f'{first.work_dir}/iter_6.pth',
    )
    seen = seen_of(first)
    later = seen_of(second)
    found = of_checkpoint(f'{second.work_dir}/iter_12.pth')
    for tensor in found.tensors:
        if not moving(tensor.name):
            continue
        taken, age = happened(seen, tensor.name, 'channel', None)
        before = split(seen.teachers[-1][tensor.name], 'channel')
        for update in range(6, 12):
            now = split(later.teachers[update - 6][tensor.name], 'channel')
            moved = (before != now).any(1)
            age = torch.where(moved, 0.7 * (age + 1), age + 1)
            taken[moved] = update
            before = now
        assert torch.equal(tensor.taken, taken), tensor.name
        torch.testing.assert_close(tensor.age, age)


def test_what_is_from_before_a_stock_checkpoint_was_resumed_is_shown_as_such(runs):
    stock = runs.classifier(dict(type='EMAHook', momentum=0.3), max_iters=3)
    resumed = runs.classifier(
        dict(SE, keep_prob=0.9), max_iters=6, resume=True, load_from=f'{stock.work_dir}/iter_3.pth'
    )
    found = of_checkpoint(f'{resumed.work_dir}/iter_6.pth')
    assert 0 < found.before < 1
    taken = torch.cat([tensor.taken for tensor in found.tensors])
    assert set(taken.tolist()) <= {BEFORE, 3, 4, 5} and BEFORE in taken


def test_byol_whose_forward_makes_the_updates_has_a_history_too(runs):
    runner = runs.byol(dict(STS), max_iters=6)
    found = of_checkpoint(f'{runner.work_dir}/iter_6.pth')
    assert found.updates == 6
    assert len(found.tensors) == len(smoothed(runner))


def test_damaged_history_is_refused_in_one_line(runs):
    path = f'{runs.classifier(dict(SE), max_iters=3).work_dir}/iter_3.pth'
    for damage in (
        lambda history: history.clear(),
        lambda history: history[0].update(begin=2),
        lambda history: history[0]['rules'][0].pop('granularity'),
        lambda history: history[0]['rules'][0]['keep_prob'].update(type='cosin'),
    ):
        checkpoint = read_checkpoint(path)
        damage(checkpoint['se_mm']['history'])
        with pytest.raises(
            OptionError, match=r'history in the checkpoint is damaged: \w+'
        ) as raised:
            read_record(checkpoint)
        assert '\n' not in str(raised.value)


def test_expected_distributions_are_what_the_settings_say(runs):
    path = f'{runs.classifier(dict(STS), max_iters=9).work_dir}/iter_9.pth'
    expected = of_checkpoint(path).expected
    ages = torch.arange(8, -1, -1, dtype=torch.float64)
    assert torch.allclose(expected.taken[1:], 0.4 * 0.6 ** ages[1:])
    assert torch.allclose(expected.share[1:], 0.12 * 0.88 ** ages[1:])
    assert float(expected.taken.sum()) == pytest.approx(1)
    assert float(expected.share.sum()) == pytest.approx(1)
