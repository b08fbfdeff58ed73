# SPDX-License-Identifier: Apache-2.0
"""The linear evaluation config: its recipe, and on a checkpoint of mmpretrain's BYOL."""

import math

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, save_checkpoint
from probe_runs import evaluation_loader, loader

from se_mm.home import find_config
from se_mm.smoothing.options import OptionError

CONFIG = find_config('linear_r50_8xb32.py')
STUDENT, TEACHER = 'backbone.', 'target_net.module.0.'
LEARNT = ['head.fc.0.weight', 'head.fc.0.bias', 'head.fc.1.weight', 'head.fc.1.bias']


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A checkpoint of mmpretrain's full-size BYOL, whose teacher differs from its student."""
    stock = Config.fromstring(
        "_base_ = 'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py'", '.py'
    )
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(dict(stock.model, init_cfg=None))
    with torch.no_grad():
        for tensor in (*model.backbone.parameters(), *model.backbone.buffers()):
            tensor.add_(1)
    path = tmp_path_factory.mktemp('checkpoint') / 'byol.pth'
    save_checkpoint(dict(meta={}, state_dict=model.state_dict()), str(path))
    return str(path)


def shrunk(work_dir, *options):
    """The config on a few digits, with options as they are written after --cfg-options."""
    config = Config.fromfile(CONFIG)
    train = loader(dict(type='DefaultSampler', shuffle=True), size=16)
    test = evaluation_loader(size=8)
    config.merge_from_dict(
        dict(
            work_dir=str(work_dir),
            train_dataloader=dict(train, batch_size=8, _delete_=True),
            val_dataloader=dict(test, _delete_=True),
            test_dataloader=dict(test, _delete_=True),
            train_cfg=dict(max_epochs=1),
            model=dict(head=dict(num_classes=10)),
            randomness=dict(seed=0),
            log_level='WARNING',
        )
    )
    for option in options:
        key, value = option.split('=', maxsplit=1)
        config.merge_from_dict({key: DictAction._parse_iterable(value)})
    return config


def init_cfg(checkpoint, prefix=STUDENT):
    return (
        f'model.backbone.init_cfg.checkpoint={checkpoint}',
        f'model.backbone.init_cfg.prefix={prefix}',
    )


@pytest.mark.parametrize('prefix', [STUDENT, TEACHER])
def test_backbone_stays_that_of_the_checkpoint_and_the_head_is_learnt(prefix, checkpoint, tmp_path):
    runner = Runner.from_cfg(shrunk(tmp_path, *init_cfg(checkpoint, prefix)))
    model = runner.model
    runner.call_hook('before_run')
    model.init_weights()
    head = {name: value.clone() for name, value in model.head.state_dict().items()}
    runner.train()

    expected = torch.load(checkpoint)['state_dict']
    backbone = model.backbone.state_dict()
    assert all(torch.equal(value, expected[prefix + name]) for name, value in backbone.items())
    assert not torch.equal(expected[STUDENT + 'conv1.weight'], expected[TEACHER + 'conv1.weight'])
    # All but the bias, which the normalisation takes away.
    learnt = [name for name in head if name != 'fc.0.bias']
    assert not any(torch.equal(model.head.state_dict()[name], head[name]) for name in learnt)


def test_recipe_is_the_released_one(checkpoint, tmp_path):
    config = Config.fromfile(CONFIG)
    runner = Runner.from_cfg(shrunk(tmp_path, 'train_cfg.max_epochs=80', *init_cfg(checkpoint)))
    optimizer = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper = optimizer
    (schedule,) = runner.build_param_scheduler(runner.param_schedulers)

    assert 8 * config.train_dataloader.batch_size == 256 == config.auto_scale_lr.base_batch_size
    assert config.train_cfg.max_epochs == 80
    (group,) = optimizer.param_groups
    assert type(optimizer.optimizer) is torch.optim.SGD
    assert (group['lr'], group['momentum'], group['weight_decay']) == (0.2, 0.9, 0)
    for epoch in range(81):
        assert group['lr'] == pytest.approx(0.1 * (1 + math.cos(math.pi * epoch / 80)), abs=1e-9)
        optimizer.step()
        schedule.step()
    trained = [name for name, value in runner.model.named_parameters() if value.requires_grad]
    assert trained == LEARNT


def test_head_is_a_linear_layer_followed_by_batchnorm():
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    head = MODELS.build(dict(type='LinearBNHead', num_classes=1000, in_channels=64))
    head.init_weights()
    linear, norm = head.fc
    features = torch.randn(8, 64)

    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02) and not linear.bias.any()
    outputs = features @ linear.weight.T
    deviation = (outputs.var(0, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(
        head((features,)), (outputs - outputs.mean(0)) / deviation, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ('path', 'prefix', 'message'),
    [
        ('', STUDENT, r"model.backbone.init_cfg.checkpoint must be .*, got ''"),
        (
            'none.pth',
            STUDENT,
            r"checkpoint must be .*, got 'none.pth'.*(can not be found|not exist)",
        ),
        (__file__, STUDENT, r'checkpoint must be a readable checkpoint, got .*\.py'),
        (None, 'encoder.', r"got 'encoder.': .*fit: 'backbone.', 'target_net.module.0.'$"),
        (None, 'target_net.module.', r"265 of 265 tensors .* such as 'conv1.weight'"),
        (None, 'neck.', r"fit: 'backbone.', 'target_net.module.0.'$"),
    ],
)
def test_a_checkpoint_that_does_not_fill_the_backbone_is_refused(
    path, prefix, message, checkpoint, tmp_path
):
    path = checkpoint if path is None else path
    runner = Runner.from_cfg(shrunk(tmp_path, *init_cfg(path, prefix)))
    with pytest.raises(OptionError, match=message) as raised:
        runner.train()
    assert '\n' not in str(raised.value) and runner.iter == 0


def test_a_checkpoint_of_another_shape_is_refused(checkpoint, tmp_path):
    config = shrunk(tmp_path, *init_cfg(checkpoint), 'model.backbone.depth=101')
    with pytest.raises(OptionError, match='no prefix in the checkpoint fits'):
        Runner.from_cfg(config).train()


@pytest.mark.parametrize('prefix', [STUDENT, TEACHER])
def test_glyphs_are_evaluated_on_a_checkpoint_of_the_pretraining(prefix, tmp_path):
    few = dict(dataset=dict(num_images=16), num_workers=0, persistent_workers=False)
    pretraining = Config.fromfile(find_config('byol_sts_conv5_1xb128_glyphs.py'))
    pretraining.merge_from_dict(
        dict(
            work_dir=str(tmp_path),
            train_dataloader=dict(few, batch_size=8),
            train_cfg=dict(max_iters=2),
            val_dataloader=None,
            val_cfg=None,
            val_evaluator=None,
            log_level='WARNING',
        )
    )
    Runner.from_cfg(pretraining).train()

    linear = Config.fromfile(find_config('linear_conv5_1xb128_glyphs.py'))
    linear.merge_from_dict(
        dict(
            work_dir=str(tmp_path / 'linear'),
            model=dict(
                backbone=dict(init_cfg=dict(checkpoint=str(tmp_path / 'iter_2.pth'), prefix=prefix))
            ),
            train_dataloader=dict(few, batch_size=8),
            train_cfg=dict(max_epochs=1, val_interval=1),
            val_dataloader=few,
            log_level='WARNING',
        )
    )
    runner = Runner.from_cfg(linear)
    runner.train()
    weights = torch.load(tmp_path / 'iter_2.pth', weights_only=False)['state_dict']
    for name, value in runner.model.backbone.state_dict().items():
        assert torch.equal(value, weights[prefix + name]), name


def test_testing_needs_no_checkpoint_of_the_pretraining(tmp_path):
    assert 'accuracy/top1' in Runner.from_cfg(shrunk(tmp_path)).test()
