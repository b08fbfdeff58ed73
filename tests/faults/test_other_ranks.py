# SPDX-License-Identifier: Apache-2.0
"""A run that goes on with another number of ranks makes the picks that are written down for it."""

import sys
from pathlib import Path

import pytest
import torch

for package in ('mmpretrain', 'mmdet'):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
from forked import warm  # noqa: E402
from small_runs import FULL, KINDS, Launch, config, write_config  # noqa: E402

from se_mm.smoothing.picks import draw, signed, unit_key  # noqa: E402

KEEP_PROB = 0.5
CASES = [(kind, ranks) for kind in KINDS for ranks in (2, 1)]


def taken(name, seed, step):
    """Whether an update takes this tensor over, from the record alone."""
    keys = torch.tensor([signed(unit_key(name))])
    return bool(draw(keys, seed, step, KEEP_PROB))


@pytest.mark.parametrize('kind, ranks', CASES if FULL else CASES[:1])
def test_picks_agree_when_resumed_with_another_number_of_ranks(kind, ranks, tmp_path):
    warm()
    variant = dict(hooks=[dict(type='FirstUpdate')], keep=-1)
    cfg = config(kind, variant, ranks)
    cfg['custom_hooks'][0] = dict(type='SpatialEnsembleHook', keep_prob=KEEP_PROB)
    path = write_config(tmp_path / 'config.py', cfg)
    work_dir = tmp_path / 'run'
    kill = dict(where='before update', at=7, rank=0, note=str(tmp_path / 'killed'))
    launch = Launch(path, work_dir, ranks, kill=kill)
    assert not launch.wait()
    assert (tmp_path / 'killed').exists(), launch.output()
    (work_dir / 'first_update.pt').unlink()

    record = torch.load(work_dir / 'iter_6.pth', weights_only=False)['se_mm']
    launch = Launch(path, work_dir, 3 - ranks, ['--resume'])
    assert launch.wait(), launch.output()
    update = torch.load(work_dir / 'first_update.pt')
    assert (update['seed'], update['step']) == (record['seed'], record['step'])
    assert record['step'] > 1
    picks = set()
    for name, (before, student, after) in update['tensors'].items():
        pick = taken(name, record['seed'], record['step'])
        assert torch.equal(after, student if pick else before), name
        picks.add(pick)
    assert picks == {True, False}
