# SPDX-License-Identifier: Apache-2.0
"""Teachers whose tensors are spread over ranks by ``fully_shard``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('torch.distributed.fsdp', reason='needs torch.distributed')


def test_two_ranks_update_their_shards_as_one_does_the_whole():
    fsdp = pytest.importorskip('torch.distributed.fsdp')
    if not hasattr(fsdp, 'fully_shard'):
        pytest.skip('needs the fully_shard of torch 2.6')
    script = Path(__file__).with_name('sharded_run.py')
    root = script.parents[2]
    result = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node=2',
            script,
        ],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'all teachers agree' in result.stdout
