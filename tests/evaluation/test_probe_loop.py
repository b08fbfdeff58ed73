# SPDX-License-Identifier: Apache-2.0
"""ProbeLoop in real runs of mmpretrain's BYOL on scikit-learn's digits."""

import json
import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from probe_runs import (
    BANK,
    TEST,
    RecordingProbe,
    SmallDigits,
    byol_run,
    classifier,
    evaluation_loader,
    loader,
    measure_on_rank,
    probe_config,
)

from se_mm.smoothing.options import OptionError

NAMES = [
    f'{who}_{probe}/top{k}'
    for who in ('teacher', 'student')
    for probe in ('knn', 'linear')
    for k in (1, 5)
]


@HOOKS.register_module()
class CallsHook(Hook):
    """Notes the stages that a loop goes through, with the names of what it is told."""

    def __init__(self):
        self.calls = []


def _note(stage):
    return lambda self, runner, **told: self.calls.append((stage, sorted(told)))


for _stage in Hook.stages:
    setattr(CallsHook, _stage, _note(_stage))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a finished run that was validated after each epoch."""
    folder = tmp_path_factory.mktemp('byol')
    checkpoint = dict(type='CheckpointHook', interval=1, save_best='teacher_knn/top1')
    hooks = dict(logger=dict(type='LoggerHook', interval=2), checkpoint=checkpoint)
    runner = Runner.from_cfg(byol_run(folder, default_hooks=hooks))
    runner.train()
    return folder


@pytest.fixture
def checkpoint(trained):
    return str(trained / 'epoch_2.pth')


def recorded(config):
    """What the probes were given in a test run, for teacher and for student, and the runner."""
    RecordingProbe.seen.clear()
    runner = Runner.from_cfg(config)
    runner.test()
    return (*RecordingProbe.seen, runner)


RECORDING = probe_config(probes=[dict(type='RecordingProbe')])


def test_metrics_of_a_training_are_logged_and_select_the_best_checkpoint(trained):
    lines = next(trained.glob('*/vis_data/scalars.json')).read_text().splitlines()
    validations = [entry for entry in map(json.loads, lines) if 'teacher_knn/top1' in entry]

    assert [entry['step'] for entry in validations] == [1, 2]
    assert set(NAMES) <= set(validations[0])
    best = max(validations, key=lambda entry: entry['teacher_knn/top1'])['step']
    assert (trained / f'best_teacher_knn_top1_epoch_{best}.pth').is_file()


def test_probing_does_not_change_the_training(trained, checkpoint, tmp_path):
    without = dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
    Runner.from_cfg(byol_run(tmp_path, **without)).train()

    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    expected = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['state_dict']
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_features_are_those_of_the_teacher_and_of_the_student(checkpoint, tmp_path):
    teacher, student, runner = recorded(
        byol_run(tmp_path, load_from=checkpoint, test_cfg=RECORDING)
    )

    model, bank, test = runner.model.eval(), SmallDigits(), SmallDigits(first=BANK, size=TEST)
    for seen, backbone in ((teacher, model.target_net.module[0]), (student, model.backbone)):
        for features, digits in ((seen['bank'], bank), (seen['features'], test)):
            images = digits.images.unsqueeze(1).expand(-1, 3, -1, -1)
            with torch.no_grad():
                expected = backbone((images - 127.5) / 127.5)[-1].mean((2, 3))
            torch.testing.assert_close(features, expected)
        assert seen['labels'].tolist() == bank.labels.tolist()
    assert not torch.allclose(teacher['features'], student['features'])


def test_modes_random_states_and_weights_are_left_as_they_were(checkpoint, tmp_path):
    runner = Runner.from_cfg(byol_run(tmp_path, load_from=checkpoint))
    runner.test()
    model = runner.model.train()
    model.backbone.layer2.eval()

    def state():
        modes = [module.training for module in model.modules()]
        weights = [value.clone() for value in model.state_dict().values()]
        return modes, weights, random.getstate(), np.random.get_state(), torch.get_rng_state()

    modes, weights, python, numpy, of_torch = state()
    runner.test_loop.run()
    modes_after, weights_after, python_after, numpy_after, of_torch_after = state()

    assert True in modes and False in modes and modes_after == modes
    assert all(map(torch.equal, weights, weights_after))
    assert python_after == python and torch.equal(of_torch_after, of_torch)
    assert all(np.array_equal(a, b) for a, b in zip(numpy, numpy_after, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_and_random_states_are_restored_after_an_error_too(tmp_path):
    runner = Runner.from_cfg(byol_run(tmp_path))
    loop = runner.test_loop
    runner.model.train()
    loop.dataloader.dataset.labels = []
    before = torch.get_rng_state()

    with pytest.raises(IndexError):
        loop.run()
    assert runner.model.target_net.training and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_hooks_are_called_as_by_the_stock_loop_of_the_stage(stage, tmp_path):
    stock = dict(type='ValLoop' if stage == 'val' else 'TestLoop')
    calls = []
    for config in (stock, probe_config(on='student')):
        # A classifier, since BYOL has nothing for the stock loop to evaluate.
        changes = {'model': classifier(), f'{stage}_cfg': config}
        runner = Runner.from_cfg(
            byol_run(tmp_path, custom_hooks=[dict(type='CallsHook')], **changes)
        )
        getattr(runner, stage)()
        calls += [hook.calls for hook in runner._hooks if isinstance(hook, CallsHook)]

    assert calls[0] == calls[1]
    assert calls[1].count((f'after_{stage}_iter', ['batch_idx', 'data_batch', 'outputs'])) == 3


def test_val_and_test_give_the_same_metrics(checkpoint, tmp_path):
    config = byol_run(tmp_path, load_from=checkpoint)
    metrics = Runner.from_cfg(config).test()

    assert list(metrics) == NAMES
    assert metrics == Runner.from_cfg(config).val()
    assert metrics['teacher_knn/top1'] > 20  # chance is 10


def test_metrics_of_one_name_are_told_apart_by_their_prefix(tmp_path):
    accuracies = [dict(type='Accuracy'), dict(type='Accuracy', prefix='other')]
    loop = probe_config(on='teacher', probes=[dict(type='KNNProbe', name='near')])
    config = byol_run(tmp_path, test_evaluator=accuracies, test_cfg=loop)
    assert list(Runner.from_cfg(config).test()) == ['teacher_near/top1', 'teacher_near/other/top1']


def test_a_model_without_a_teacher_is_probed_as_a_student(tmp_path):
    model = byol_run(tmp_path).model
    model.pop('base_momentum')
    model.update(type='SimSiam')
    options = dict(model=model, test_cfg=probe_config(on=['student']))
    assert list(Runner.from_cfg(byol_run(tmp_path, **options)).test()) == NAMES[4:]

    options['test_cfg'] = probe_config()
    with pytest.raises(OptionError, match='SimSiam, which has no teacher'):
        Runner.from_cfg(byol_run(tmp_path, **options)).test()


def test_a_teacher_that_a_hook_keeps_beside_the_model_is_probed(tmp_path):
    train = loader(dict(type='DefaultSampler', shuffle=True))
    config = byol_run(
        tmp_path,
        model=classifier(),
        train_dataloader=train,
        val_cfg=RECORDING,
        custom_hooks=[dict(type='SETMAHook', momentum=0.1)],
    )
    RecordingProbe.seen.clear()
    Runner.from_cfg(config).train()

    (teacher, student), images = RecordingProbe.seen[-2:], SmallDigits(first=BANK, size=TEST).images
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    saved['ema_state_dict'].pop('steps')
    of_student = {name[len('module.') :]: v for name, v in saved['ema_state_dict'].items()}
    model = Runner.from_cfg(config).model.eval()
    for seen, weights in ((teacher, saved['state_dict']), (student, of_student)):
        model.load_state_dict(weights)
        with torch.no_grad():
            inputs = (images.unsqueeze(1).expand(-1, 3, -1, -1) - 127.5) / 127.5
            torch.testing.assert_close(seen['features'], model.extract_feat(inputs)[-1])
    assert not torch.allclose(teacher['features'], student['features'])


def test_the_teacher_of_our_hook_in_byol_is_probed(tmp_path):
    hooks = [dict(type='SETMAHook', keep_prob=0.5)]
    config = byol_run(tmp_path, custom_hooks=hooks, val_cfg=RECORDING)
    RecordingProbe.seen.clear()
    runner = Runner.from_cfg(config)
    runner.train()

    teacher, student = RecordingProbe.seen[-2:]
    images = SmallDigits(first=BANK, size=TEST).images.unsqueeze(1).expand(-1, 3, -1, -1)
    model = runner.model.eval()
    for seen, backbone in ((teacher, model.target_net.module[0]), (student, model.backbone)):
        with torch.no_grad():
            expected = backbone((images - 127.5) / 127.5)[-1].mean((2, 3))
        torch.testing.assert_close(seen['features'], expected)


def test_the_stock_ema_hook_is_refused_since_it_hides_the_student(tmp_path):
    config = byol_run(tmp_path, custom_hooks=[dict(type='EMAHook')])
    with pytest.raises(OptionError, match='must not have EMAHook with ProbeLoop'):
        Runner.from_cfg(config).train()


def test_two_ranks_measure_what_one_measures(checkpoint, tmp_path):
    probes = [dict(type='RecordingProbe', k=5), dict(type='LinearProbe', max_iter=30)]
    options = dict(load_from=checkpoint, test_cfg=probe_config(probes=probes))
    teacher, student, runner = recorded(byol_run(tmp_path, **options))
    torch.multiprocessing.spawn(measure_on_rank, (2, str(tmp_path), options), nprocs=2)

    for rank in range(2):
        metrics, seen = torch.load(tmp_path / f'metrics_{rank}.pth', weights_only=False)
        assert metrics == pytest.approx(runner.test_loop.run())
        for mine, alone in zip(seen, (teacher, student), strict=True):
            torch.testing.assert_close(mine['bank'], alone['bank'])
            assert torch.equal(mine['labels'], alone['labels'])
            assert len(mine['features']) == (TEST + 1) // 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(on=['techer']), "on must be one of .*, got 'techer'"),
        (dict(on=[]), 'on must be one or both of teacher, student'),
        (
            dict(layer='backbne'),
            "layer must be the dotted name .*, got 'backbne'. Did you mean 'backbone'",
        ),
        (dict(layer='head'), "layer must be in the student of 'target_net'.*got 'head'"),
        (dict(layer='neck'), "layer='neck' cannot be probed"),
        (dict(probes=[dict(type='KNNProbe', k=BANK + 1)]), f'k must be .*, got {BANK + 1}'),
        (dict(probes=[dict(type='KNNProbe')] * 2), 'probes must be one or more distinct'),
        (dict(probes=[]), 'probes must be one or more'),
        (dict(bank=loader(labelled=False)), 'bank.dataset must give one gt_label'),
        (dict(bank=loader(views=2)), 'bank.dataset must give one image .*, got 2 views'),
    ],
)
def test_what_a_config_gets_wrong_is_said_before_the_first_iteration(options, message, tmp_path):
    runner = Runner.from_cfg(byol_run(tmp_path, val_cfg=probe_config(**options)))
    with pytest.raises(OptionError, match=message) as raised:
        runner.train()
    assert '\n' not in str(raised.value) and runner.iter == 0


def test_unknown_probe_is_refused_by_its_registry(tmp_path):
    config = byol_run(tmp_path, val_cfg=probe_config(probes=[dict(type='KNNProb')]))
    with pytest.raises(KeyError, match='KNNProb is not in'):
        Runner.from_cfg(config).train()


def test_unlabelled_evaluation_images_are_refused_before_the_first_iteration(tmp_path):
    config = byol_run(tmp_path, val_dataloader=evaluation_loader(labelled=False))
    with pytest.raises(OptionError, match=r'^val_dataloader\.dataset must give one gt_label'):
        Runner.from_cfg(config).train()
