# SPDX-License-Identifier: Apache-2.0
"""Nothing that is done in every iteration makes the host wait for a GPU.

What waits there are operations whose result the host must know, to read a number or to size a
tensor. They are the same on the CPU, where they are forbidden here.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from se_mm.smoothing import GRANULARITIES, SpatialEnsemble
from se_mm.smoothing.guards import not_finite

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten._unique2,
}


class NoWaits(TorchDispatchMode):
    """Fails where the host would wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in WAITING, f'{func} waits'
        return func(*args, **(kwargs or {}))


def student():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 3)
    )


def test_a_wait_is_noticed():
    with NoWaits(), pytest.raises(AssertionError, match='waits'):
        torch.ones(1).item()


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('momentum', [1.0, 0.1])
@pytest.mark.parametrize('buffers', ['copy', 'average', 'skip'])
def test_an_update_awaits_nothing(granularity, momentum, buffers):
    model = student()
    teacher = SpatialEnsemble(
        model, keep_prob=0.5, momentum=momentum, granularity=granularity, buffers=buffers
    )
    teacher.update(model)  # The number of updates is read once.
    with NoWaits():
        for _ in range(3):
            teacher.update(model)


def test_tensors_that_are_finite_are_found_so_by_one_wait():
    waits = []

    class CountWaits(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            waits.extend([func] * (func.overloadpacket in WAITING))
            return func(*args, **(kwargs or {}))

    with CountWaits():
        assert not_finite(student().named_parameters()) == []
    assert len(waits) <= 1


@pytest.mark.parametrize('labeller', ['teacher', 'student'])
@pytest.mark.parametrize('target', ['HardTarget', 'SoftTarget', 'SharpenedTarget'])
def test_the_loss_of_a_semi_supervised_classifier_awaits_nothing(labeller, target):
    pytest.importorskip('mmpretrain')
    from mmengine.registry import MODELS, init_default_scope

    import se_mm  # noqa: F401  (registers the model)

    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='SemiSupervisedClassifier',
            labeller=labeller,
            target=dict(type=target),
            align=dict(type='DistributionAlignment', num_classes=10, target='labelled'),
            classifier=dict(
                type='ImageClassifier',
                backbone=dict(type='ConvNet', channels=(8,), strides=(2,)),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=8),
            ),
            data_preprocessor=dict(mean=[127.5] * 3, std=[63.75] * 3),
        )
    )

    def batch():
        return {
            'inputs': {
                'labelled': torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
                'views': [torch.zeros(6, 3, 8, 8, dtype=torch.uint8) for _ in range(2)],
            },
            'data_samples': {'labels': torch.arange(4), 'truth': torch.arange(6)},
        }

    with NoWaits():
        for _ in range(2):
            data = model.data_preprocessor(batch(), True)
            sum(model(**data, mode='loss').values()).backward()
