# SPDX-License-Identifier: Apache-2.0
"""The small configs train, on embedded images and on a folder of a user's own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from se_mm.home import find_config

Image = pytest.importorskip('PIL.Image')
pytest.importorskip('mmpretrain')
ROOT = Path(__file__).parents[2]


def train(name, work_dir, *options):
    command = [sys.executable, ROOT / 'tools/train.py', find_config(name)]
    command += ['--work-dir', work_dir, '--cfg-options', 'train_cfg.max_iters=2', *options]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=work_dir)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (work_dir / 'iter_2.pth').exists()
    return result.stdout + result.stderr


def test_digits_are_trained_on_and_probed(tmp_path):
    log = train('byol_sts_conv5_1xb128_digits.py', tmp_path, 'train_cfg.val_interval=2')
    assert 'teacher_knn/top1' in log
    assert 'student_linear/top1' in log


def test_folder_of_ones_own_images_is_trained_on(tmp_path):
    digits = load_digits()
    for index in range(160):
        folder = tmp_path / 'images' / ('some' if index % 2 else 'others')
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((digits.images[index] * 15.9).astype(np.uint8))
        image.resize((20, 24)).save(folder / f'{index}.png')
    log = train(
        'byol_sts_conv5_1xb128_folder.py',
        tmp_path,
        f'train_dataloader.dataset.data_root={tmp_path / "images"}',
        'default_hooks.logger.interval=1',
    )
    assert 'Iter(train) [2/2]' in log
