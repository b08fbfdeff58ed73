# SPDX-License-Identifier: Apache-2.0
"""MMEngine's checkpoints load with weights_only=True, and foreign code does not."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from se_mm.engine.safe_loading import _statistic

asks_by_default = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6),
    reason='PyTorch loads everything before 2.6',
)


class Reduces:
    """Pickles as a call of a function with arguments."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def touch(path):
    """What a hostile checkpoint would have called."""
    open(path, 'w').close()


@asks_by_default
def test_checkpoint_of_a_real_run_loads(runs):
    runner = runs.classifier(
        dict(type='SETMAHook'),
        param_scheduler=[dict(type='CosineAnnealingLR', T_max=6, by_epoch=False)],
        default_hooks=dict(checkpoint=dict(save_best='accuracy/top1')),
    )
    checkpoint = torch.load(f'{runner.work_dir}/iter_6.pth', weights_only=True)
    history = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.mean() == pytest.approx(
        runner.message_hub.get_scalar('train/loss').mean(), abs=1e-12
    )
    assert checkpoint['param_schedulers'][0]['T_max'] == 6


@asks_by_default
@pytest.mark.parametrize(
    'call',
    [
        (touch,),
        (eval, 'open("PATH", "w").close()'),
        (getattr, HistoryBuffer, '__init__'),
        (getattr, dict, '__subclasses__'),
    ],
)
def test_checkpoint_with_foreign_code_is_refused_and_not_run(tmp_path, call):
    target = tmp_path / 'touched'
    function, *arguments = call
    arguments = [a.replace('PATH', str(target)) if isinstance(a, str) else a for a in arguments]
    if function is touch:
        arguments = [str(target)]
    torch.save({'state_dict': {}, 'x': Reduces(function, *arguments)}, tmp_path / 'evil.pth')
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        torch.load(tmp_path / 'evil.pth', weights_only=True)
    assert not target.exists()


def test_only_the_statistics_of_a_history_can_be_read():
    assert _statistic(HistoryBuffer, 'mean') is HistoryBuffer.mean
    for owner, name in [(HistoryBuffer, '__init__'), (dict, 'mean'), (torch, 'max')]:
        with pytest.raises(ValueError, match='may not read'):
            _statistic(owner, name)


@asks_by_default
def test_checkpoints_load_after_a_library_allowed_the_same_classes_for_one_load(tmp_path):
    torch.save({'history': HistoryBuffer([1.0, 2.0], [1, 1])}, tmp_path / 'history.pth')
    with torch.serialization.safe_globals([HistoryBuffer, np.ndarray, np.dtype]):
        torch.load(tmp_path / 'history.pth', weights_only=True)
    history = torch.load(tmp_path / 'history.pth', weights_only=True)['history']
    assert history.mean() == pytest.approx(1.5)
