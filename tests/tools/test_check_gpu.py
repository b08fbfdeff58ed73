# SPDX-License-Identifier: Apache-2.0
"""The check of a GPU runs to its end, in small and on the CPU too."""

import pytest
import torch


def test_all_parts_run_and_find_nothing_wrong_on_the_cpu(tools):
    output = tools.succeed('check_gpu.py', '--device', 'cpu', '--smoke')
    for heading in (
        'The kernel against PyTorch operations',
        'One update of a ResNet-50',
        'Views of 32 x 32 pixels',
        'An iteration of byol',
        'An iteration of fixmatch',
    ):
        assert f'## {heading}' in output
    assert 'Wrong' not in output


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_machine_without_a_gpu_is_told_so_in_one_line(tools):
    assert 'needs a GPU' in tools.fail('check_gpu.py')
