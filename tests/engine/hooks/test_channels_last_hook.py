# SPDX-License-Identifier: Apache-2.0
"""A model that is laid out with its channels last learns the same."""

import torch
from mmengine.runner import Runner

from tests.runs import small_byol_cfg


def trained(folder, *more):
    hooks = [dict(type='SETMAHook', keep_prob=0.5, granularity='element'), *more]
    runner = Runner.from_cfg(small_byol_cfg(folder, hooks))
    runner.train()
    return runner.model


def test_weights_are_laid_out_and_teacher_and_student_are_the_same(tmp_path):
    plain = trained(tmp_path / 'plain').state_dict()
    model = trained(tmp_path / 'last', dict(type='ChannelsLastHook'))
    kernels = [p for p in model.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-4)
