# SPDX-License-Identifier: Apache-2.0
"""A resumed run draws what the uninterrupted one would have drawn, and refuses another model."""

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from se_mm.engine.cpu import CPURunner
from se_mm.engine.keyed_data import KeyedBatches, key_dataloader
from se_mm.smoothing.options import OptionError


@DATASETS.register_module(force=True)
class NoisyDigits(Dataset):
    """A data set whose every item has random numbers of all three generators."""

    metainfo = {'classes': tuple('0123456789')}

    def __len__(self):
        return 10

    def __getitem__(self, index):
        import random

        return [index, random.random(), float(np.random.rand()), float(torch.rand(()))]


def batches(seed=0, rank=0, epoch=0, skipped=0, workers=0, passes=2):
    loader = torch.utils.data.DataLoader(
        NoisyDigits(), batch_size=4, shuffle=True, num_workers=workers, collate_fn=list
    )
    key_dataloader(loader, seed, rank, epoch, skipped)
    return [batch for _ in range(passes) for batch in loader]


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('skipped', range(7))
def test_skipped_batches_change_nothing_of_the_others(skipped, workers):
    # A pass that is skipped to its very end is still one, and empty.
    passes = 2 - max(0, skipped - 1) // 3
    assert batches(skipped=skipped, workers=workers, passes=passes) == batches()[skipped:]


def test_views_depend_on_seed_rank_and_pass_and_the_order_not_on_the_rank():
    whole = batches()
    other_seed, other_rank, other_pass = batches(seed=1), batches(rank=1), batches(epoch=1)
    for other in (other_seed, other_rank, other_pass):
        assert other != whole

    def order(found):
        return [[item[0] for item in batch] for batch in found]

    assert order(other_rank) == order(whole)
    assert other_pass[:3] == whole[3:]


def test_generators_of_the_main_process_are_left_alone():
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1]
    loader = torch.utils.data.DataLoader(NoisyDigits(), batch_size=4, collate_fn=list)
    key_dataloader(loader, 0, 0, 0, 0)
    dataset = loader.dataset
    assert isinstance(dataset, NoisyDigits) and isinstance(loader.batch_sampler, KeyedBatches)
    for _ in loader.batch_sampler:
        pass
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


class Draws(Hook):
    """Keeps what the model of each iteration would draw."""

    def __init__(self):
        self.drawn = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.drawn[runner.iter] = float(torch.rand(())), float(np.random.rand())


def trained(cfg, **options):
    cfg.launcher = 'none'
    cfg.update(options)
    runner = CPURunner.from_cfg(cfg)
    draws = Draws()
    runner.register_hook(draws)
    runner.train()
    return runner, draws.drawn


@pytest.mark.parametrize('loop', ['iterations', 'epochs'])
def test_run_that_stops_in_the_middle_goes_on_with_the_same_draws(byol_cfg, tmp_path, loop):
    hooks = [dict(type='SETMAHook', keep_prob=0.5)]
    changes = {}
    if loop == 'epochs':  # Of 6 iterations; the checkpoint is in the middle of the first.
        changes = dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1))
    whole, drawn = trained(byol_cfg(tmp_path / 'whole', hooks, **dict(changes)))
    path = str(tmp_path / 'whole/iter_3.pth')
    cfg = byol_cfg(tmp_path / 'resumed', hooks, **dict(changes))
    resumed, again = trained(cfg, resume=True, load_from=path)
    assert again == {step: drawn[step] for step in (3, 4, 5)}
    states = [runner.model.state_dict() for runner in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_seed_that_no_config_names_comes_out_of_the_checkpoint(byol_cfg, tmp_path):
    cfg = byol_cfg(tmp_path / 'whole')
    cfg.randomness = dict(seed=None)
    whole, _ = trained(cfg)
    cfg = byol_cfg(tmp_path / 'resumed')
    cfg.randomness = dict(seed=None)
    resumed, _ = trained(cfg, resume=True, load_from=str(tmp_path / 'whole/iter_3.pth'))
    assert resumed.seed == whole.seed
    states = [runner.model.state_dict() for runner in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_gradients_between_two_steps_of_the_optimizer_are_kept(byol_cfg, tmp_path):
    def cfg(name):
        cfg = byol_cfg(tmp_path / name, [dict(type='SETMAHook')])
        cfg.optim_wrapper.accumulative_counts = 2
        return cfg

    whole, _ = trained(cfg('whole'))
    path = tmp_path / 'whole/iter_3.pth'
    (rank,) = torch.load(path)['ranks']
    assert rank['gradients'] and not rank['buffers']
    assert 'ranks' not in torch.load(tmp_path / 'whole/iter_6.pth')
    resumed, _ = trained(cfg('resumed'), resume=True, load_from=str(path))
    states = [runner.model.state_dict() for runner in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_checkpoint_of_another_model_is_refused(byol_cfg, classifier_cfg, tmp_path):
    trained(classifier_cfg(tmp_path / 'classifier'))
    path = str(tmp_path / 'classifier/iter_3.pth')
    with pytest.raises(OptionError, match='is not of this model') as error:
        trained(byol_cfg(tmp_path / 'byol'), resume=True, load_from=path)
    assert '\n' not in str(error.value)


def test_config_in_a_checkpoint_is_not_run(byol_cfg, tmp_path):
    trained(byol_cfg(tmp_path / 'whole'))
    path, mark = tmp_path / 'whole/iter_3.pth', tmp_path / 'was_run'
    checkpoint = torch.load(path)
    checkpoint['meta']['config'] = f'open({str(mark)!r}, "w")\n'
    torch.save(checkpoint, path)
    trained(byol_cfg(tmp_path / 'resumed'), resume=True, load_from=str(path))
    assert not mark.exists()
