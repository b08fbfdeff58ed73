# SPDX-License-Identifier: Apache-2.0
"""With MMEngine's ``compile=True`` the update of a teacher is left out, and recompiles nothing."""

import pytest
import torch
from mmengine.runner import Runner
from mmengine.utils import digit_version

from tests.runs import small_byol_cfg

dynamo = pytest.importorskip('torch._dynamo')
pytestmark = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.2'),
    reason='PyTorch 2.1 cannot compile a step of SGD, with the stock hook either',
)


def compiled_run(folder, hooks):
    """A run whose training step is compiled: graph breaks, graphs, and the teacher at its end."""
    dynamo.reset()
    dynamo.utils.counters.clear()
    runner = Runner.from_cfg(
        small_byol_cfg(folder, hooks, max_iters=5, compile=dict(backend='eager'))
    )
    runner.train()
    counters = dynamo.utils.counters
    breaks = sum(counters['graph_break'].values())
    return breaks, counters['stats']['unique_graphs'], runner.model.target_net.state_dict()


def test_a_compiled_step_has_no_more_graphs_than_with_the_stock_average(tmp_path):
    breaks, graphs, _ = compiled_run(tmp_path / 'stock', [])
    hooks = [dict(type='SETMAHook', keep_prob=0.5, check_finite=1)]
    ours = compiled_run(tmp_path / 'ours', hooks)
    assert ours[0] <= breaks
    assert ours[1] <= graphs


def test_a_compiled_step_moves_the_teacher_as_one_that_is_not(tmp_path):
    hooks = [dict(type='SETMAHook', keep_prob=0.5)]
    _, _, compiled = compiled_run(tmp_path / 'compiled', hooks)
    runner = Runner.from_cfg(small_byol_cfg(tmp_path / 'eager', hooks, max_iters=5))
    runner.train()
    eager = runner.model.target_net.state_dict()
    assert compiled.keys() == eager.keys()
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)
