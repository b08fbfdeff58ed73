# SPDX-License-Identifier: Apache-2.0
"""The README's code blocks work as they stand."""

import sys
from pathlib import Path

import pytest

pytest.importorskip('mmpretrain')
sys.path.insert(0, str(Path(__file__).parent))
from code_blocks import (
    README,
    check_command,
    check_config_block,
    check_scripts,
    commands_of,
    configs_of,
)


@pytest.mark.parametrize('block', configs_of([README]))
def test_config_block_loads_and_what_it_names_can_be_built(block, tmp_path):
    check_config_block(block, tmp_path)


@pytest.mark.parametrize('command', commands_of([README]))
def test_command_is_one_that_exists(command, tmp_path, monkeypatch):
    check_command(command, tmp_path, monkeypatch)


def test_scripts_run_and_print_what_the_readme_says():
    check_scripts(README)
