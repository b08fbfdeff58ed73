# SPDX-License-Identifier: Apache-2.0
"""What the docs say of a user's own images, done as they say it, from an empty folder.

The commands and configs are read from the pages; they are shortened by options alone.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('mmpretrain')
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tests'))
from code_blocks import blocks_of, checkout  # noqa: E402

IMAGES = ROOT / 'docs/howto/images.md'
CLASSES = ('ants', 'bees', 'crabs')
ENDINGS = ('.jpg', '.png', '.webp', '.tif', '.bmp')
SHORT = [
    'train_dataloader.batch_size=8',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'default_hooks.logger.interval=1',
]
BY_ITERATIONS = [*SHORT, 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']


def draw(path, kind, rng):
    """A disc, a square or a stroke of its own colour, in one of five formats."""
    picture = rng.integers(90, 150, (40, 40, 3)).astype(np.uint8)
    colour = tuple(int(value) for value in np.eye(3)[kind] * 200 + 30)
    x, y = (int(value) for value in rng.integers(12, 28, 2))
    if kind == 0:
        cv2.circle(picture, (x, y), 9, colour, -1)
    elif kind == 1:
        cv2.rectangle(picture, (x - 9, y - 9), (x + 9, y + 9), colour, -1)
    else:
        cv2.line(picture, (x - 10, y - 10), (x + 10, y + 10), colour, 5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())


@pytest.fixture
def home(tmp_path):
    """The folder that the pages describe, beside the project."""
    rng = np.random.default_rng(0)
    images = checkout(tmp_path) / 'data/my_images'
    for kind, name in enumerate(CLASSES):
        for index, ending in enumerate(ENDINGS):
            draw(images / f'labelled/{name}/{index}{ending}', kind, rng)
            draw(images / f'test/{name}/{index}{ending}', kind, rng)
    for index in range(30):
        draw(images / f'unlabelled/{index}{ENDINGS[index % 5]}', index % 3, rng)
    return tmp_path


def run(home, command, *options, status=0):
    """Run a page's command with further options; its output and error output."""
    words = shlex.split(command)
    assert words[0] == 'python'
    if options and '--cfg-options' not in words:
        words.append('--cfg-options')
    result = subprocess.run(
        [sys.executable, *words[1:], *options],
        cwd=home,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == status, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def commands(page, word):
    """The commands of a page that have a word in them."""
    found = [c for b in blocks_of(page) if b.language == 'bash' for c in b.commands if word in c]
    assert found, f'{page} has no command with {word}'
    return found


def configs(page, word):
    """The configs of a page that have a word in them, and are of a user's own images."""
    found = [
        block.text
        for block in blocks_of(page)
        if block.language == 'python' and word in block.text and 'data/my_images' in block.text
    ]
    assert found, f'{page} has no config with {word}'
    return found


def test_command_for_a_few_labelled_images(home):
    (command,) = commands(IMAGES, 'train.py configs/fixmatch/fixmatch_sts_conv4_1xb32_folder.py')
    log = run(home, command, *BY_ITERATIONS)
    assert 'Iter(train) [2/2]' in log
    assert re.search(r'Iter\(val\) \[1/1\] +teacher/accuracy/top1: .*student/accuracy/top1', log)


def test_command_for_pretraining_and_its_broken_image(home):
    (home / 'data/my_images/unlabelled/broken.jpg').write_bytes(b'')
    (command,) = commands(IMAGES, 'train.py configs/byol/byol_sts_conv5_1xb128_folder.py')
    log = run(home, command, *BY_ITERATIONS, 'train_cfg.max_iters=12', 'train_cfg.val_interval=13')
    assert 'Iter(train) [12/12]' in log
    assert "broken.jpg' cannot be read and is skipped: it is empty" in log


def test_command_that_checks_all_images(home):
    (command,) = commands(IMAGES, '--check-images')
    assert run(home, command).count('image files can be read.') == 3
    for name in ('labelled/bees', 'unlabelled', 'test/crabs'):
        (home / f'data/my_images/{name}/broken.jpg').write_bytes(b'<html>')
    output = run(home, command, status=1)
    counts = re.findall(r'(\d+) of (\d+) image files can be read', output)
    assert [int(total) - int(read) for read, total in counts] == [1, 1, 1]
    assert output.count('cannot be read: data/my_images/') == 3


@pytest.mark.parametrize(
    'word, options, expected',
    [
        # ResNet-50 on 224 pixels: eight of the images.
        (
            'byol_sts_r50_8xb32',
            [
                *SHORT,
                'train_dataloader.batch_size=4',
                'train_dataloader.dataset.indices=8',
                'train_cfg.max_epochs=1',
            ],
            r'Epoch\(train\) +\[1\]\[2/2\]',
        ),
        ('ProbeLoop', BY_ITERATIONS, r'Iter\(val\) .*teacher_knn/top1: .*student_linear/top1'),
        ('CSVDataset', BY_ITERATIONS, r'Iter\(val\) .*teacher/accuracy/top1'),
    ],
)
def test_config_of_the_page_trains(word, options, expected, home):
    (block,) = configs(IMAGES, word)
    rows = [f'labelled/{name}/{i}{e},{name}' for name in CLASSES for i, e in enumerate(ENDINGS)]
    (home / 'data/my_images/labels.csv').write_text('\n'.join(['image,label', *rows]))
    # Beside the others in configs/, as the page says, which are links here.
    folder = home / 'own'
    folder.mkdir()
    for path in (ROOT / 'configs').iterdir():
        (folder / path.name).symlink_to(path)
    (folder / 'mine.py').write_text(block)
    log = run(home, 'python tools/train.py own/mine.py', *options)
    assert re.search(expected, log)


def test_images_that_differ_from_what_is_said_are_refused_before_training(home):
    images = home / 'data/my_images'
    (command,) = commands(IMAGES, 'train.py configs/fixmatch/fixmatch_sts_conv4_1xb32_folder.py')
    (images / 'test/crabs').rename(images / 'test/wasps')
    log = run(home, command, *BY_ITERATIONS, status=2)
    assert 'classes of val_dataloader.dataset must be those of train_dataloader.dataset' in log
    assert 'without crabs and with wasps' in log and 'Iter(train)' not in log
    (images / 'test/wasps').rename(images / 'test/crabs')
    log = run(home, command, *BY_ITERATIONS, 'model.classifier.head.num_classes=4', status=2)
    assert 'num_classes must be 3, the number of classes' in log and 'ants, bees, crabs' in log
    log = run(home, command, *BY_ITERATIONS, 'val_evaluator.topk=5', status=2)
    assert 'val_evaluator.topk must be at most the number of classes, 3, got 5' in log
    (images / 'test/bees/broken.jpg').write_bytes(b'')
    strict = 'val_dataloader.dataset.unreadable=error'
    log = run(home, command, *BY_ITERATIONS, strict, status=2)
    assert "val_dataloader.dataset: image 'data/my_images/test/bees/broken.jpg' cannot be" in log
    assert 'Iter(train)' not in log
