# SPDX-License-Identifier: Apache-2.0
"""tools/split_labels.py: draws splits that a run can use, and never overwrites another."""

import json
import re

import cv2
import numpy as np
import pytest

from se_mm.datasets import Digits
from se_mm.datasets.label_split import LabelSplit, draw_split

CONFIG = """
custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'
train_dataloader = dict(
    batch_size=8, num_workers=0, dataset=dict(type='SemiSupervisedDataset', labelled={labelled})
)
"""
DIGITS = dict(type='Digits', split='train', size=8)
CSV = dict(type='CSVDataset', ann_file='labels.csv')


@pytest.fixture
def digits(tools):
    """The tool's arguments for a config of handwritten digits."""
    return ['split_labels.py', write_config(tools, DIGITS)]


@pytest.fixture
def own(tools):
    """The tool's arguments for a config of a user's own images, of 4 and 2 in a class."""
    lines = ['image,label']
    for index in range(6):
        cv2.imwrite(str(tools.folder / f'{index}.png'), np.full((4, 4, 3), index, np.uint8))
        lines.append(f'{index}.png,{"cat" if index < 4 else "dog"}')
    (tools.folder / 'labels.csv').write_text('\n'.join(lines))
    return ['split_labels.py', write_config(tools, CSV)]


def write_config(tools, labelled):
    path = tools.folder / 'config.py'
    path.write_text(CONFIG.format(labelled=labelled))
    return path


def rows(output):
    """The cells of the table's rows."""
    return [
        re.findall(r'[\w()]+', line) for line in output.splitlines() if '│' in line or '┃' in line
    ]


def test_splits_are_written_as_they_are_drawn_and_left_when_they_are_there(tools, digits):
    command = [*digits, '--num-labels', 40, '--seeds', 1, 2, '--out', 'new/splits']
    output = tools.succeed(*command)
    dataset = Digits('train')
    labels = dataset.get_gt_labels()
    for seed in (1, 2):
        split = LabelSplit.load(tools.folder / f'new/splits/Digits_40_seed{seed}.json')
        assert split == draw_split('Digits', tuple('0123456789'), labels, 40, seed)
        assert re.search(rf'seed {seed}: .*Digits_40_seed{seed}\.json written', output)
    assert ['3', str(int((labels == 3).sum())), '4'] in rows(output)
    assert ['all', '1500', '40'] in rows(output)
    assert output.count('labelled') == 1
    path = tools.folder / 'new/splits/Digits_40_seed1.json'
    before = path.stat().st_mtime_ns
    output = tools.succeed(*command[:-2], 3, *command[-2:])
    assert 'Digits_40_seed1.json already exists' in output
    assert 'Digits_40_seed3.json written' in output
    assert path.stat().st_mtime_ns == before


def test_another_split_is_never_overwritten_and_nothing_else_is_written(tools, digits):
    command = [*digits, '--num-labels', 40, '--out', '.']
    tools.succeed(*command, '--seeds', 2)
    path = tools.folder / 'Digits_40_seed2.json'
    before = path.read_text()
    line = tools.fail(*command, '--seeds', 1, 2, '--as-given')
    assert "'Digits_40_seed2.json' holds another split and is not overwritten" in line
    assert path.read_text() == before
    assert not (tools.folder / 'Digits_40_seed1.json').exists()


def test_without_out_nothing_is_written(tools, digits):
    output = tools.succeed(*digits, '--num-labels', 10)
    assert 'seed 0: images ' in output
    assert [path.name for path in tools.folder.iterdir()] == ['config.py']


def test_as_given_keeps_the_proportions_of_the_data(tools, own):
    output = tools.succeed(*own, '--num-labels', 3, '--as-given')
    assert rows(output)[1:3] == [['cat', '4', '2'], ['dog', '2', '1']]
    assert 'of the number of classes, 2, got 3' in tools.fail(*own, '--num-labels', 3)


def test_show_checks_a_file_against_the_data(tools, digits):
    tools.succeed(*digits, '--num-labels', 20, '--out', '.')
    show = ['--show', 'Digits_20_seed0.json']
    output = tools.succeed(*digits, *show)
    assert ['all', '1500', '20'] in rows(output)
    options = ['--cfg-options', 'train_dataloader.dataset.labelled.split=test']
    line = tools.fail(*digits, *show, *options)
    assert 'from another data set: 1500 images of Digits, not 297 of Digits' in line
    path = tools.folder / 'Digits_20_seed0.json'
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, 'indices': [*content['indices'][:-1], 1500]}))
    line = tools.fail(*digits, *show)
    assert "split='Digits_20_seed0.json': indices must be integers in 0 to 1499, of images" in line
    assert line.endswith('got 1500')


def test_images_that_cannot_be_read_are_listed_with_status_1(tools, own):
    assert 'labelled: 6 of 6 image files can be read.' in tools.succeed(*own, '--check-images')
    (tools.folder / '1.png').write_text('no image')
    (tools.folder / '5.png').write_bytes(b'')
    status, output, _ = tools.run(*own, '--check-images', '--num-labels', 2, '--out', '.')
    assert status == 1
    assert re.findall(r'cannot be read: (\S+): it is (.*)', output) == [
        ('1.png', 'damaged or not an image'),
        ('5.png', 'empty'),
    ]
    assert '4 of 6 image files can be read.' in output
    assert not list(tools.folder.glob('*.json'))


def test_check_of_images_in_memory_has_nothing_to_do(tools, digits):
    output = tools.succeed(*digits, '--check-images', '--num-labels', 10)
    assert 'labelled: 0 of 0 image files can be read.' in output
    assert ['all', '1500', '10'] in rows(output)


@pytest.mark.parametrize(
    'labelled, message',
    [
        (None, 'must set train_dataloader.dataset.labelled'),
        (dict(type='Digit'), 'Digit'),
        (dict(type='Digits', split='trian'), "split must be one of 'train'"),
        (dict(type='CIFAR10', data_root='none', download=False), 'Cannot find CIFAR10'),
    ],
)
def test_config_that_gives_no_data_is_one_line(labelled, message, tools):
    config = write_config(tools, labelled)
    assert message in tools.fail('split_labels.py', config, '--num-labels', 10)


@pytest.mark.parametrize(
    'options, message',
    [
        (['--num-labels', 41], 'of the number of classes, 10, got 41; use 40 or 50'),
        (['--show', 'none.json'], "split='none.json' cannot be read: No such file or directory"),
        (['--num-labels', 10, '--out', 'config.py'], 'cannot be'),
    ],
)
def test_wrong_option_is_one_line(options, message, tools, digits):
    assert message in tools.fail(*digits, *options)


@pytest.mark.parametrize(
    'options, message',
    [
        ([], 'set one of --num-labels, --show and --check-images'),
        (['--show', 'a.json', '--num-labels', 10], 'must not be combined with --num-labels'),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, tools, digits):
    status, _, errors = tools.run(*digits, *options)
    assert status == 2
    assert message in errors.splitlines()[-1]


def test_images_of_all_sets_are_checked_each_once(tools, own):
    path = tools.folder / 'config.py'
    for name in ('free', 'test/cat', 'test/dog', 'bank/cat'):
        (tools.folder / name).mkdir(parents=True)
        cv2.imwrite(str(tools.folder / name / 'good.png'), np.zeros((4, 4, 3), np.uint8))
        (tools.folder / name / 'bad.png').write_bytes(b'')
    deep = np.full((4, 4), 4000, np.uint16)
    cv2.imwrite(str(tools.folder / 'free/deep.png'), deep)
    path.write_text(
        path.read_text()
        + """
free = dict(type='ImageFolder', data_root='free', with_label=False)
train_dataloader['dataset']['unlabelled'] = free
test = dict(dataset=dict(type='ImageFolder', data_root='test'))
val_dataloader = test_dataloader = test
bank = dict(type='ImageFolder', data_root='bank', classes=['cat', 'dog'])
val_cfg = dict(type='ProbeLoop', bank=dict(dataset=bank))
"""
    )
    status, output, _ = tools.run(*own, '--check-images')
    assert status == 1
    bad = re.findall(r'cannot be read: (\S+): it is empty', output)
    assert bad == ['free/bad.png', 'test/cat/bad.png', 'test/dog/bad.png', 'bank/cat/bad.png']
    assert 'train_dataloader.dataset.labelled: 6 of 6 image files can be read.' in output
    assert 'val_dataloader.dataset: 2 of 4 image files can be read.' in output
    assert 'test_dataloader' not in output
    assert 'unlabelled: 1 images have more than 8 bits per channel, such as free/deep.png' in output


def test_images_of_a_config_without_labels_are_checked(tools):
    (tools.folder / 'free').mkdir()
    (tools.folder / 'free/a, b.jpg').write_bytes(b'no image')
    path = tools.folder / 'config.py'
    path.write_text(
        "custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)\n"
        "dataset = dict(type='ImageFolder', data_root='free', with_label=False)\n"
        'train_dataloader = dict(batch_size=8, dataset=dataset)\n'
    )
    status, output, _ = tools.run('split_labels.py', path, '--check-images')
    assert status == 1 and 'cannot be read: free/a, b.jpg: it is damaged' in output
