# SPDX-License-Identifier: Apache-2.0
"""A shipped config's test gives one number, whatever the number of processes."""

import re

import pytest

from se_mm.home import find_config
from tests.launched import free_port

TRAINED = [
    '--cfg-options',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=3',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
]


def metrics(log):
    """The metrics of the last line of a test."""
    (line,) = [line for line in log.splitlines() if 'Iter(test)' in line and 'top1' in line]
    return dict(re.findall(r'(\w+/\S+): ([\d.]+)', line))


@pytest.mark.parametrize(
    'name', ['fixmatch_sts_conv4_1xb32_digits-2.py', 'byol_sts_conv5_1xb128_digits.py']
)
def test_several_processes_measure_what_one_measures(tools, name):
    config = find_config(name)
    tools.succeed('train.py', config, '--work-dir', 'w', *TRAINED)
    expected = metrics(tools.succeed('test.py', config, 'w/iter_2.pth', '--work-dir', 't'))
    assert len(expected) >= 4
    for processes in (2, 4):
        arguments = ('dist_test.sh', config, 'w/iter_2.pth', processes, '--work-dir', 't')
        assert metrics(tools.succeed(*arguments, PORT=free_port())) == expected
