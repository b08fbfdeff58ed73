# SPDX-License-Identifier: Apache-2.0
"""A teacher beside the model, against mmengine's and mmpretrain's EMAHook by the same line."""

import pytest
import torch

LINES = {
    'teacher': dict(type='EMAHook', momentum=0.1),
    'buffers': dict(type='EMAHook', momentum=0.1, update_buffers=True, priority=49),
    'annealed': dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.1, gamma=3),
    'begin': dict(type='EMAHook', momentum=0.1, begin_iter=2),
    'both': dict(type='mmpretrain.EMAHook', momentum=0.1, evaluate_on_origin=True),
    'student': dict(type='mmpretrain.EMAHook', momentum=0.1, evaluate_on_ema=False),
}


def metrics_of(runner):
    """The last value of each metric of a run's validation."""
    scalars = runner.message_hub.log_scalars
    return {key: value.current() for key, value in scalars.items() if key.startswith('val/acc')}


@pytest.mark.parametrize('line', LINES.values(), ids=LINES)
def test_line_with_another_type_evaluates_and_saves_what_the_stock_hook_did(runs, line):
    # Half of the digits: an accuracy that tells a teacher from its student.
    stock = runs.classifier(line, max_iters=9)
    ours = runs.classifier(dict(line, type='SETMAHook', keep_prob=0), max_iters=9)
    assert metrics_of(ours) == pytest.approx(metrics_of(stock))
    assert metrics_of(stock)
    first, second = (torch.load(f'{runner.work_dir}/iter_9.pth') for runner in (stock, ours))
    for part in ('state_dict', 'ema_state_dict'):
        assert list(first[part]) == list(second[part])
        for name, value in first[part].items():
            if 'num_batches' in name or name == 'steps':
                continue  # Stock averages leave integers; theirs counts calls, ours updates.
            torch.testing.assert_close(second[part][name], value)


def test_run_without_averages_is_evaluated_as_student_and_teacher_alike(runs):
    line = dict(type='SpatialEnsembleHook', keep_prob=0, evaluate_on_origin=True)
    metrics = metrics_of(runs.classifier(line))
    assert set(metrics) == {'val/accuracy/top1', 'val/accuracy/top1_origin'}
    assert len(set(metrics.values())) == 1
