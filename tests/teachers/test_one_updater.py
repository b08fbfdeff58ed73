# SPDX-License-Identifier: Apache-2.0
"""A teacher is moved by one thing: another updater, or none, ends the run in one line."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import HOOKS

from se_mm.smoothing import OptionError, TeacherFault
from se_mm.teachers.updater import IDLE, WATCHED
from tests.toys import (
    SE,
    STS,
    TMA,
    Momentum,
    MovesByMethod,
    MovesInTrainStep,
    SyncedAverage,
    Toy,
    ToyMeanTeacher,
    assert_close,
    hook_of,
    mix,
    state_of,
)

PAIR = dict(STS, momentum=0.1)


def fault_of(runner):
    """The one line that ends a run, and the iteration at which it does."""
    with pytest.raises(TeacherFault) as error:
        runner.train()
    assert '\n' not in str(error.value)
    return str(error.value), runner.iter


@pytest.mark.parametrize('hook', [PAIR, SE], ids=['STS', 'SE'])
@pytest.mark.parametrize(
    'model, others',
    [
        (ToyMeanTeacher, [dict(type='ForeignMeanTeacherHook')]),
        (ToyMeanTeacher, [dict(type='ForeignMeanTeacherHook', share=0.01)]),
        (ToyMeanTeacher, [dict(type='ForeignMeanTeacherHook', start=4)]),
        (MovesInTrainStep, []),
    ],
    ids=['another hook', 'a slow one', 'one that starts later', 'train_step'],
)
def test_promise_9_second_update_of_a_pair_ends_the_run_in_the_first_iterations(
    toys, hook, model, others
):
    said, iteration = fault_of(toys.build(model, hook, *others, iters=30))
    assert 'only one hook may update the teacher' in said
    assert 'of the way to its student' in said
    assert iteration < WATCHED


def test_promise_9_method_that_moves_the_pair_is_replaced_and_not_a_second_update(toys):
    runner = toys.train(MovesByMethod, dict(TMA, momentum=0.5), iters=30)
    hook = hook_of(runner)
    assert hook.teacher.kind == 'method'
    alone = toys.train(MovesByMethod, iters=30)
    # The first update copies; the stock method averages with the teacher as it is built.
    assert hook.updater.ensemble.step == 31
    assert_close(
        dict(runner.model.teacher.named_parameters()),
        dict(alone.model.teacher.named_parameters()),
        rtol=0.2,
        atol=0.05,
    )


def test_promise_9_update_after_the_first_iterations_is_noticed_with_check_teachers(toys):
    late = dict(type='ForeignMeanTeacherHook', start=WATCHED + 5)
    runner = toys.build(ToyMeanTeacher, dict(PAIR, check_teachers=3), late, iters=40)
    said, iteration = fault_of(runner)
    assert 'only one hook may update the teacher' in said
    assert WATCHED + 5 <= iteration <= WATCHED + 5 + 4
    assert toys.train(ToyMeanTeacher, PAIR, late, iters=40).iter == 40


def test_promise_9_nothing_is_watched_after_the_first_iterations(toys, monkeypatch):
    from se_mm.smoothing.guards import Watch

    looks = []
    leave = Watch.leave
    monkeypatch.setattr(Watch, 'leave', lambda self, pairs: looks.append(0) or leave(self, pairs))
    runner = toys.train(ToyMeanTeacher, PAIR, iters=40)
    assert len(looks) <= WATCHED + 3
    assert hook_of(runner).updater._watch is None


@pytest.mark.parametrize('hook', [TMA, STS, SE], ids=['TMA', 'STS', 'SE'])
@pytest.mark.parametrize('asks', ['plain', 'list', 'second name'])
def test_promise_9_average_is_moved_wherever_its_model_refers_to_it(toys, asks, hook):
    runner = toys.train(Momentum(asks=asks), hook, iters=20)
    assert hook_of(runner).updater.ensemble.step == 20
    assert int(runner.model.target.steps) == 20
    if hook is TMA:
        stock = toys.train(Momentum(asks=asks), iters=20)
        assert_close(runner.model.target, stock.model.target, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('hook', [TMA, SE], ids=['TMA', 'SE'])
def test_promise_9_average_that_nothing_calls_ends_the_run_in_one_line(toys, hook):
    said, iteration = fault_of(toys.build(Momentum(asks='never'), hook, iters=IDLE + 20))
    assert "must trigger the updates of its teacher 'target', but did not" in said
    assert iteration < IDLE
    # In a run that is shorter than that too.
    said, _ = fault_of(toys.build(Momentum(asks='never'), hook, iters=3))
    assert 'in the first 3 iterations' in said


def test_promise_9_average_that_is_moved_by_hand_and_never_asked_is_told_apart(toys):
    @HOOKS.register_module(force=True)
    class ByHandHook(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            mix(runner.model.target.module, runner.model.encoder)

    said, _ = fault_of(toys.build(Momentum(asks='never'), TMA, dict(type='ByHandHook'), iters=30))
    assert 'something else changed the teacher' in said


@pytest.mark.parametrize('hook', [TMA, STS, SE], ids=['TMA', 'STS', 'SE'])
def test_promise_9_average_that_starts_later_and_is_synced_until_then_trains(toys, hook):
    def model():
        torch.manual_seed(0)
        return Momentum(average=SyncedAverage, asks='after a start')

    runner = toys.train(model(), hook, iters=20)
    assert hook_of(runner).updater.ensemble.step == 15
    assert type(runner.model.target) is SyncedAverage
    if hook is TMA:
        stock = toys.train(model(), iters=20)
        assert_close(runner.model.target, stock.model.target, rtol=1e-4, atol=1e-5)


def test_promise_9_begin_later_than_the_first_iterations_is_no_idle_teacher(toys):
    runner = toys.train(ToyMeanTeacher, dict(PAIR, begin_iter=WATCHED + 5), iters=30)
    assert hook_of(runner).updater.ensemble.step > 0
    assert toys.train(Momentum, dict(STS, begin_iter=WATCHED + 5), iters=30).iter == 30


def test_promise_9_long_accumulation_is_no_idle_teacher(toys):
    accumulate = dict(optimizer=dict(type='SGD', lr=0.05), accumulative_counts=30)
    for model, hook in ((Momentum, STS), (ToyMeanTeacher, PAIR)):
        assert toys.train(model, hook, iters=60, optim_wrapper=accumulate).iter == 60


class TwoAverages(Momentum):
    """Two averages, as a GAN with an average of its generator and one of its encoder."""

    def __init__(self):
        super().__init__()
        self.second = ExponentialMovingAverage(self.encoder, momentum=0.3)

    def update(self):
        super().update()
        self.second.update_parameters(self.encoder)


def test_promise_10_two_averages_of_which_none_is_named_are_an_error_that_lists_both(toys):
    runner = toys.build(TwoAverages, STS)
    with pytest.raises(OptionError, match="TwoAverages has several: 'target', 'second'") as error:
        runner.train()
    assert '\n' not in str(error.value) and runner.iter == 0


def test_promise_10_named_average_is_moved_by_us_and_the_other_as_it_was(toys):
    runner = toys.train(TwoAverages, dict(STS, teacher='second'), iters=12)
    stock = toys.train(TwoAverages, iters=12)
    assert hook_of(runner).teacher.path == 'second'
    assert_close(runner.model.target, stock.model.target)
    assert not torch.equal(
        runner.model.second.module[0].weight, stock.model.second.module[0].weight
    )


class SwapsItsAverage(Momentum):
    """A model that replaces its average's network, as a progressive GAN does."""

    def update(self):
        if self.iters == 4:
            self.target.module[2] = torch.nn.Linear(6, 1)
        super().update()


def test_tensor_that_the_model_replaces_in_its_teacher_is_moved_on(toys):
    runner = toys.train(SwapsItsAverage, dict(SE, keep_prob=0.0), iters=WATCHED + 10)
    before = state_of(runner.model.target.module)
    assert not torch.equal(before['2.weight'], torch.zeros(1, 6))
    assert hook_of(runner).updater.ensemble.step == WATCHED + 10


def test_runs_of_users_own_errors_keep_them(toys):
    class Broken(Toy):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(6, 1)

        def loss(self, inputs, sums):
            raise ZeroDivisionError('mine')

    with pytest.raises(ZeroDivisionError, match='mine'):
        toys.train(Broken, STS)
