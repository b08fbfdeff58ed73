# SPDX-License-Identifier: Apache-2.0
"""tools/convert_released.py: checkpoints of the released code become those of mmpretrain's BYOL."""

import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from se_mm.home import find_config
from se_mm.smoothing.options import OptionError

pytest.importorskip('mmpretrain')
torchvision = pytest.importorskip('torchvision')

TOOLS = Path(__file__).parents[2] / 'tools'
convert = runpy.run_path(str(TOOLS / 'convert_released.py'))['convert']


def encoder(predictor, hidden=4096, out=256):
    """An encoder as the released code builds it: a ResNet-50 whose ``fc`` is a sequence."""

    def mlp(width):
        return [
            nn.Linear(width, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out),
        ]

    network = torchvision.models.resnet50()
    network.fc = nn.Sequential(*mlp(2048), *(mlp(out) if predictor else []))
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    """Path of a released checkpoint, and the encoders that it is of."""
    torch.manual_seed(0)
    model = nn.ModuleDict(dict(student_encoder=encoder(True), teacher_encoder=encoder(False)))
    path = tmp_path_factory.mktemp('released') / 'last_epoch_ckpt.pth.tar'
    state = {f'module.{name}': value for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1).state_dict()
    torch.save({'start_epoch': 200, 'model': state, 'optimizer': optimizer}, path)
    return path, model.eval()


@torch.no_grad()
def test_byol_loads_it_strictly_and_computes_the_same(released, tmp_path):
    path, encoders = released
    convert(path, tmp_path / 'byol.pth')
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(find_config('byol_sts_r50_8xb32.py'))
    cfg.model.neck.with_last_bias = cfg.model.head.predictor.with_last_bias = True
    byol = MODELS.build(cfg.model).eval()
    # SyncBN does not run on the CPU; its keys are those of other norms.
    byol = revert_sync_batchnorm(byol)
    byol.load_state_dict(torch.load(tmp_path / 'byol.pth')['state_dict'], strict=True)
    images = torch.randn(2, 3, 64, 64)
    for who, backbone, neck in (
        ('student', byol.backbone, byol.neck),
        ('teacher', *byol.target_net.module),
    ):
        network = encoders[f'{who}_encoder']
        features = neck(backbone(images))[0]
        if who == 'student':
            features = byol.head.predictor((features,))[0]
        torch.testing.assert_close(features, network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('weights', ['teacher', 'student'])
def test_backbone_is_published_from_it(released, tmp_path, weights):
    path, encoders = released
    convert(path, tmp_path / 'byol.pth')
    out = tmp_path / 'new' / 'backbone.pth'
    tool = runpy.run_path(str(TOOLS / 'publish_teacher.py'))
    words = [str(tmp_path / 'byol.pth'), str(out), '--weights', weights, '--prefix', 'backbone']
    tool['publish'](tool['parse_args'](words))
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(find_config('linear_r50_8xb32.py')).model.backbone
    cfg.init_cfg = dict(type='Pretrained', checkpoint=str(out), prefix='backbone.')
    cfg.norm_cfg = dict(type='BN')
    backbone = MODELS.build(cfg)
    backbone.init_weights()
    expected = encoders[f'{weights}_encoder'].state_dict()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, expected[name])


def broken(released, change, folder):
    checkpoint = torch.load(released[0])
    change(checkpoint)
    path = folder / 'broken.pth'
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c: c.pop('model'), "must have a 'model'"),
        (
            lambda c: [c['model'].pop(k) for k in list(c['model']) if 'teacher' in k],
            'must have a teacher_encoder, got module.student_encoder',
        ),
        (
            lambda c: c['model'].update({'module.student_encoder.fc.9.weight': torch.zeros(1)}),
            "student_encoder must be a ResNet .* got 'module.student_encoder.fc.9.weight'",
        ),
        (
            lambda c: c['model'].update({'module.teacher_encoder.fc.4.weight': torch.zeros(1)}),
            "teacher_encoder must be a ResNet .* got 'module.teacher_encoder.fc.4.weight'",
        ),
    ],
)
def test_other_layouts_are_one_line_and_nothing_is_written(released, tmp_path, change, message):
    path = broken(released, change, tmp_path)
    with pytest.raises(OptionError, match=message) as raised:
        convert(path, tmp_path / 'out.pth')
    assert '\n' not in str(raised.value)
    assert not (tmp_path / 'out.pth').exists()


def test_what_is_there_is_not_overwritten(released, tmp_path):
    out = tmp_path / 'out.pth'
    out.write_text('mine')
    with pytest.raises(OptionError, match='exists; choose another name'):
        convert(released[0], out)
    with pytest.raises(OptionError, match='must not be the checkpoint itself'):
        convert(released[0], released[0], overwrite=True)
    assert out.read_text() == 'mine'
