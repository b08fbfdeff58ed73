# SPDX-License-Identifier: Apache-2.0
"""Twenty thousand updates on two ranks: memory stays, teachers stay equal.

Takes minutes, and is made with ``SE_MM_FAULTS=full`` only.
"""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain')
sys.path.insert(0, str(Path(__file__).parent))
from small_runs import FULL, Launch, config, write_config

UPDATES = 20_000
WARM = 4_000


@pytest.mark.skipif(not FULL, reason='takes minutes: SE_MM_FAULTS=full')
def test_soak(tmp_path):
    variant = dict(
        interval=1000, keep=2, hooks=[dict(type='Memory', interval=500)], iters=UPDATES, log=1000
    )
    cfg = config('shadow', variant, 2)
    cfg['train_dataloader']['batch_size'] = 4
    cfg['train_dataloader']['dataset']['pipeline'] = [dict(type='PackInputs')]
    path = write_config(tmp_path / 'config.py', cfg)
    work_dir = tmp_path / 'run'
    launch = Launch(path, work_dir, 2, forked=False)
    assert launch.wait(seconds=3000), launch.output()

    for rank in range(2):
        lines = (work_dir / f'memory.{rank}').read_text().splitlines()
        sizes = {int(step): int(size) for step, size in map(str.split, lines)}
        assert list(sizes) == list(range(500, UPDATES + 1, 500))
        after = [size for step, size in sizes.items() if step >= WARM]
        print(f'rank {rank}: {after[0] / 2**20:.1f} to {max(after) / 2**20:.1f} MiB')
        assert max(after) <= 1.01 * after[0], sizes

    first, second = (torch.load(work_dir / f'rank{r}.pt')['teacher'] for r in range(2))
    assert list(first) == list(second)
    for name, tensor in first.items():
        if 'running' not in name:  # Those of batch norm follow each rank's own on the CPU.
            assert torch.equal(tensor, second[name]), name
    assert {path.name for path in work_dir.glob('iter_*.pth')} == {
        f'iter_{UPDATES - 1000}.pth',
        f'iter_{UPDATES}.pth',
    }
    checkpoint = torch.load(work_dir / f'iter_{UPDATES}.pth', weights_only=False)
    assert int(checkpoint['ema_state_dict']['steps']) == UPDATES
    assert checkpoint['se_mm']['step'] == UPDATES
