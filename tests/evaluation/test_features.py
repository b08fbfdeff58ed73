# SPDX-License-Identifier: Apache-2.0
"""One feature vector per image, from what mmpretrain's backbones return."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.functional import layer_norm

from se_mm.evaluation.features import frozen, pooled

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Returns(nn.Module):
    """A backbone that returns what it was made with."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, inputs):
        return self.output


def vit(**options):
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
    config = dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=16, **options)
    backbone = MODELS.build(config)
    backbone.eval()
    return backbone


def test_of_several_feature_maps_the_last_is_averaged_over_its_positions():
    maps = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(pooled(Returns(maps), IMAGES), maps[1].flatten(2).mean(2))


def test_of_tokens_the_class_token_counts():
    with torch.no_grad():
        expected = vit(out_type='cls_token')(IMAGES)[-1]
        torch.testing.assert_close(pooled(vit(out_type='raw'), IMAGES), expected)


def test_of_tokens_without_a_class_token_the_mean_counts():
    with torch.no_grad():
        expected = vit(out_type='avg_featmap', with_cls_token=False)(IMAGES)[-1]
        features = pooled(vit(out_type='raw', with_cls_token=False), IMAGES)
    # mmpretrain's own average is normalised once more.
    torch.testing.assert_close(layer_norm(features, (24,), eps=1e-6), expected)


def test_features_are_fp32():
    assert pooled(Returns(torch.ones(2, 5, dtype=torch.float16)), IMAGES).dtype == torch.float32


@pytest.mark.parametrize('output', ['text', {}, (), torch.ones(2, 5, dtype=torch.int64)])
def test_what_is_not_features_is_refused(output):
    with pytest.raises(TypeError, match='is not a floating-point tensor'):
        pooled(Returns(output), IMAGES)


@pytest.mark.parametrize('shape', [(2,), (1, 5), (2, 5, 2, 2, 2)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match='for 2 images'):
        pooled(Returns(torch.ones(shape)), IMAGES)


def test_frozen_restores_every_mode_after_an_error():
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout()))
    module[1].eval()
    with pytest.raises(KeyError), frozen([module]):
        assert not module.training and not torch.is_grad_enabled()
        raise KeyError
    assert [part.training for part in module.modules()] == [True, True, False, False]
    assert torch.is_grad_enabled()
