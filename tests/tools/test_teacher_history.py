# SPDX-License-Identifier: Apache-2.0
"""tools/teacher_history.py on the checkpoints of real runs."""

import re

import pytest
import torch
from PIL import Image

SHRUNK = [
    'train_dataloader.batch_size=8',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_dataloader.dataset.num_images=64',
    'train_cfg.max_iters=8',
    'default_hooks.checkpoint.interval=8',
]


@pytest.fixture(scope='module')
def byol(tmp_path_factory, tools_in):
    """Tools in a folder with a checkpoint of BYOL under STS, of channels."""
    from se_mm.home import find_config

    tools = tools_in(tmp_path_factory.mktemp('byol'))
    config = find_config('byol_sts_conv5_1xb128_glyphs.py')
    options = (*SHRUNK, 'custom_hooks.0.granularity=channel')
    tools.succeed('train.py', config, '--no-validate', '--cfg-options', *options)
    tools.checkpoint = f'work_dirs/{config.stem}/iter_8.pth'
    return tools


def test_picture_page_and_numbers_of_a_teacher(byol, open_page):
    output = byol.succeed('teacher_history.py', byol.checkpoint, '--out', 'drawn')
    assert re.search(r'updates made +8\n', output)
    assert re.search(r'mean age, updates +[\d.]+ \(expected [\d.]+\)', output)
    assert 'effective ensemble size' in output
    with Image.open(byol.folder / 'drawn/teacher_history.png') as picture:
        assert min(picture.size) > 500
    page = open_page(byol.folder / 'drawn/teacher_history.html', scripts=False)
    assert page.title == 'What the teacher of iter_8.pth is made of'
    assert page.errors == page.requests == []
    assert [drawn for drawn, alt in page.images if alt] == [True]
    assert 'backbone.layers' in page.text and 'effective ensemble size' in page.text
    assert not open_page(byol.folder / 'drawn/teacher_history.html', width=400).overflows


def test_what_is_wrong_is_one_line_and_nothing_is_written(byol):
    line = byol.fail('teacher_history.py', byol.checkpoint, '--out', '/proc/x')
    assert "--out='/proc/x/teacher_history.png' cannot be written" in line
    line = byol.fail('teacher_history.py', byol.checkpoint[:-1])
    assert 'does not exist' in line and 'iter_8.pth' in line
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'meta': {}}, byol.folder / 'plain.pth')
    line = byol.fail('teacher_history.py', 'plain.pth', '--out', 'plain')
    assert "a hook of se_mm has updated, got 'plain.pth'" in line
    assert not (byol.folder / 'plain').exists()
    data = (byol.folder / byol.checkpoint).read_bytes()
    (byol.folder / 'cut.pth').write_bytes(data[: len(data) // 2])
    assert 'cut.pth' in byol.fail('teacher_history.py', 'cut.pth')
