# SPDX-License-Identifier: Apache-2.0
"""Every small config that is shipped tests to the same metrics on 1, 2 and 4 processes."""

import json

import pytest
import torch
from config_runs import measure, small_configs

from tests.launched import free_port

pytestmark = pytest.mark.slow


def test_metrics_do_not_depend_on_the_number_of_processes(tmp_path):
    names = list(small_configs())
    assert len(names) >= 20
    for processes in (1, 2, 4):
        arguments = (processes, free_port(), names, tmp_path)
        torch.multiprocessing.spawn(measure, arguments, nprocs=processes)
    one, *others = (json.loads((tmp_path / f'{n}.json').read_text()) for n in (1, 2, 4))
    for name in names:
        # An untrained detector finds nothing.
        assert any(one[name].values()) or any('coco' in key for key in one[name])
        for other in others:
            assert other[name] == pytest.approx(one[name], abs=1e-9), name
