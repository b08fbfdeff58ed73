# SPDX-License-Identifier: Apache-2.0
"""tools/split_coco.py: writes the files that mmdet's configs name, and never over others."""

import json
import re

import pytest

from se_mm.datasets import DigitScenes

COMMAND = ('split_coco.py', 'annotations/train.json', '--percent', 10, 50, '--folds', 1, 2)


@pytest.fixture
def coco(tools):
    """Twenty scenes' annotations, in the file that the command names."""
    coco = DigitScenes(num_images=20).coco()
    (tools.folder / 'annotations').mkdir()
    (tools.folder / 'annotations/train.json').write_text(json.dumps(coco))
    return coco


def files(tools):
    return sorted(path.name for path in tools.folder.glob('semi_anns/*'))


def test_every_fold_and_percent_is_written_with_its_ids(tools, coco):
    output = tools.succeed(*COMMAND)
    stems = [f'train.{fold}@{percent}' for fold in (1, 2) for percent in (10, 50)]
    endings = ('.json', '-unlabeled.json', '-ids.json')
    assert files(tools) == sorted(stem + ending for stem in stems for ending in endings)
    for stem, count in zip(stems, (2, 10, 2, 10)):
        labelled, unlabelled, record = (
            json.loads((tools.folder / 'semi_anns' / (stem + ending)).read_text())
            for ending in endings
        )
        assert len(labelled['images']) == count
        assert len(unlabelled['images']) == 20 - count
        assert record['image_ids'] == sorted(image['id'] for image in labelled['images'])
        assert (record['num_images'], record['annotations']) == (20, 'train.json')
    rows = [line.split() for line in output.splitlines() if line.strip()[:1] in ('1', '2')]
    assert [row[:3] for row in rows] == [
        ['1', '10', '2'],
        ['1', '50', '10'],
        ['2', '10', '2'],
        ['2', '50', '10'],
    ]


def test_nothing_is_overwritten_unless_asked_for(tools, coco):
    tools.succeed(*COMMAND)
    first = {name: (tools.folder / 'semi_anns' / name).read_text() for name in files(tools)}
    assert 'already exists (12 files do)' in tools.fail(*COMMAND, '--seed', 1)
    now = {name: (tools.folder / 'semi_anns' / name).read_text() for name in files(tools)}
    assert now == first
    tools.succeed(*COMMAND, '--overwrite')
    assert {name: (tools.folder / 'semi_anns' / name).read_text() for name in first} == first


@pytest.mark.parametrize(
    'words, message',
    [
        (('--percent', 0), r'percent must be a number in \(0, 100\), got 0.0'),
        (('--percent', 10, 100), 'percent must be a number .*, got 100.0'),
        (('--folds', 0), 'fold must be an integer >= 1, got 0'),
    ],
)
def test_wrong_option_is_one_line_and_writes_nothing(tools, coco, words, message):
    line = tools.fail(*COMMAND[:2], *words)
    assert re.search(message, line)
    assert files(tools) == []
