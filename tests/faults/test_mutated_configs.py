# SPDX-License-Identifier: Apache-2.0
"""A config with something wrong in it is refused in one line; one without moves its teacher.

``SE_MM_FAULTS=full`` makes all 300; ``SE_MM_FAULT_SEED`` makes others, and is shown by a failure.
"""

import math
import sys
from pathlib import Path

import pytest
import torch

for package in ('mmpretrain', 'mmdet'):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
from forked import start, warm  # noqa: E402
from mutations import FIRST, ITERS, PAIRS, Case, text  # noqa: E402
from small_runs import FULL, ROOT, SEED  # noqa: E402

CASES = range(300) if FULL else range(32)
LIMIT = 240  # Of which a machine that does nothing else needs a twentieth.


@pytest.fixture(scope='module', autouse=True)
def imported():
    """Import once what every case needs."""
    warm()


def teacher_of(kind, checkpoint):
    """The floating tensors of a teacher in a checkpoint."""
    prefix = {'byol': 'target_net.module.', 'shadow': ''}.get(kind, 'teacher.')
    return {
        name: tensor
        for name, tensor in checkpoint['state_dict'].items()
        if name.startswith(prefix) and tensor.is_floating_point()
    }


def expected_updates(kind, cfg):
    """Opportunities for an update in a run."""
    hook = cfg['custom_hooks'][0]
    begin = hook.get('begin_iter', 0)
    every = 1 if hook.get('every_iter') else cfg['optim_wrapper']['accumulative_counts']
    # An optimizer steps at iterations that are multiples of every, and at the last.
    steps = [n for n in range(1, ITERS + 1) if n % every == 0]
    if kind == 'byol':  # The model asks before the step of the same iteration.
        return None
    return sum(n >= begin for n in steps) + (kind in PAIRS and begin == 0)


@pytest.mark.parametrize('number', CASES)
def test_config_is_refused_in_one_line_or_its_teacher_moves(number, tmp_path):
    case = Case(SEED, number)
    print(f'SE_MM_FAULT_SEED={SEED}, case {case}')
    cfg = case.config()
    path = tmp_path / 'config.py'
    path.write_text(''.join(f'{key} = {text(value)}\n' for key, value in cfg.items()))
    work_dir = tmp_path / 'run'
    (tmp_path / 'here').mkdir()
    run = start(
        [ROOT / 'tools/train.py', path, '--work-dir', work_dir],
        cwd=tmp_path / 'here',
        log=tmp_path / 'log',
    )
    status = run.wait(LIMIT)
    said = run.output()
    if case.wrong is not None:
        lines = [line for line in said.splitlines() if line.startswith('error: ')]
        assert status == 2, said[-2000:]
        assert len(lines) == 1, said[-2000:]
        assert 'Traceback' not in said
        assert 'Iter(train)' not in said
        assert not list(work_dir.glob('*.pth'))
        words = [str(key) for key in case.wrong.path if isinstance(key, str)]
        assert any(word in lines[0] for word in words), lines[0]
        return
    assert status == 0, said[-3000:]
    first, last = (
        torch.load(work_dir / f'iter_{n}.pth', weights_only=False) for n in (FIRST, ITERS)
    )
    before, after = teacher_of(case.kind, first), teacher_of(case.kind, last)
    assert after and all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in after)
    assert last['se_mm']['step'] > 0
    expected = expected_updates(case.kind, cfg)
    assert expected is None or math.isclose(last['se_mm']['step'], expected, abs_tol=1)
