# SPDX-License-Identifier: Apache-2.0
"""The twelve promises of the design: each has tests that name it, and some are stated here.

===  ==================================================================================
1    picks are a function of seed, update step and unit
2    the first update copies everything; until then the teacher is the student
3    checkpoints have the stock keys and load as the stock hook's do
4    no synchronisation and no walk over the module tree in an update
5    one update for each step of the optimizer
6    tensors are found by name, and another shape is one line
7    what can be known fails before the first iteration; other errors stay as they are
8    the mean over the picks is the moving average of the matching momentum
9    only one hook updates a teacher
10   nothing that was not offered is touched
11   a teacher's batch norm statistics follow the documented policies
12   no tool deletes what the user did not ask to delete
===  ==================================================================================
"""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from se_mm.smoothing import Settings, SpatialEnsemble

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


@pytest.mark.parametrize('number', range(1, 13))
def test_each_promise_is_named_by_a_test(number):
    named = re.compile(rf'^def test_promise_{number}_\w+', re.MULTILINE)
    assert any(named.search(path.read_text()) for path in (ROOT / 'tests').rglob('test_*.py'))


def student_and_teacher(**options):
    """A batch norm after some iterations, and its teacher."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = SpatialEnsemble(student, **{'keep_prob': 0.5, 'momentum': 0.1, **options})
    for _ in range(5):
        student(torch.randn(8, 3))
        with torch.no_grad():
            student[0].weight.add_(0.1)
        teacher.update(student)
    return student, teacher.module


@pytest.mark.parametrize(
    'options, averaged',
    [
        ({}, True),
        (dict(buffers='copy'), False),
        (dict(buffers='average'), True),
        (dict(keep_prob=0.0), False),  # The moving average alone, as stock hooks have it.
        (dict(momentum=1.0), False),  # SE.
    ],
)
def test_promise_11_statistics_of_batch_norms_are_averaged_by_default_where_parameters_are(
    options, averaged
):
    student, teacher = student_and_teacher(**options)
    for name in ('running_mean', 'running_var'):
        same = torch.equal(getattr(teacher[1], name), getattr(student[1], name))
        assert same != averaged
    assert torch.equal(teacher[1].num_batches_tracked, student[1].num_batches_tracked)


def test_promise_11_statistics_may_stay_those_of_the_first_update():
    _, teacher = student_and_teacher(buffers='skip')
    assert int(teacher[1].num_batches_tracked) == 1


def test_promise_11_policies_of_batch_norm_statistics_are_documented():
    from se_mm.smoothing.settings import BUFFERS

    (entry,) = re.findall(r'buffers: Batch norm statistics.*?fp32_teacher:', Settings.__doc__, re.S)
    assert all(f"``'{policy}'``" in entry for policy in BUFFERS)


def test_promise_11_default_of_an_averaged_model_is_its_own_policy():
    pytest.importorskip('mmengine')
    from mmengine.model import ExponentialMovingAverage

    from se_mm.teachers import Updater, find_teacher

    for update_buffers, expected in ((False, 'copy'), (True, 'average')):
        model = nn.Module()
        model.net = nn.BatchNorm1d(3)
        model.target = ExponentialMovingAverage(model.net, update_buffers=update_buffers)
        updater = Updater(find_teacher(model), Settings(momentum=None))
        assert updater.smoother.buffers == expected


def test_promise_4_an_update_in_a_run_walks_no_modules_once_it_is_watched_no_more(monkeypatch):
    pytest.importorskip('mmengine')
    from se_mm.smoothing import smoother, tensors
    from se_mm.teachers import Updater, find_teacher

    model = nn.Module()
    model.student, model.teacher = nn.Linear(3, 2), nn.Linear(3, 2)
    teacher = find_teacher(model)
    updater = Updater(teacher, Settings(0.5, 0.1))
    teacher.install(updater)
    for _ in range(3):
        updater()

    def walk(*args, **kwargs):
        raise AssertionError('the module tree was walked over')

    for module in (smoother, tensors):
        monkeypatch.setattr(module, 'slots', walk)
    for name in ('modules', 'named_modules', 'parameters', 'named_parameters', 'named_buffers'):
        monkeypatch.setattr(nn.Module, name, walk)
    for _ in range(20):
        updater()
    assert updater.ensemble.step == 23


DELETING = re.compile(r'\b(rmtree|unlink|rmdir|removedirs|send2trash)\b|\bos\.remove\b|\brm -')


def test_promise_12_no_tool_deletes():
    allowed = {
        'se_mm/checkpoints/write.py',  # Files of our own that did not become whole.
        'se_mm/engine/hooks/safe_checkpoint_hook.py',  # What max_keep_ckpts asks for.
    }
    found = [
        f'{path.relative_to(ROOT)}:{number}: {line.strip()}'
        for folder in ('tools', 'se_mm')
        for path in sorted((ROOT / folder).rglob('*'))
        if path.suffix in ('.py', '.sh') and str(path.relative_to(ROOT)) not in allowed
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if DELETING.search(line)
    ]
    assert found == []
