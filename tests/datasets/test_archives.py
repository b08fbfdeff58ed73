# SPDX-License-Identifier: Apache-2.0
"""CIFAR by mmpretrain, SVHN and STL-10 by us: what lies in their files comes back as it is."""

import sys

import archives
import numpy as np
import pytest
import torchvision
from mmengine.registry import DATASETS, init_default_scope

from se_mm.datasets import torchvision_images
from se_mm.smoothing import OptionError

pytest.importorskip('scipy')


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def apply(monkeypatch):
    """Makes readers accept what a function of ``archives`` has written."""

    def apply(changes):
        for target, value in changes.items():
            monkeypatch.setattr(target, value)

    return apply


@pytest.fixture
def svhn(tmp_path, rng, apply):
    """Folder and splits of a small SVHN without its extra split."""
    splits = {'train': archives.random_set(rng, 23, 10), 'test': archives.random_set(rng, 11, 10)}
    apply(archives.write_svhn(tmp_path / 'svhn', **splits))
    return tmp_path / 'svhn', splits


@pytest.fixture
def stl10(tmp_path, rng, apply):
    """Folder and content of a small STL-10."""
    content = {
        'train': archives.random_set(rng, 20, 10, 96),
        'test': archives.random_set(rng, 10, 10, 96),
        'unlabelled': archives.random_set(rng, 7, 10, 96)[0],
        'folds': [rng.permutation(20)[:5] for _ in range(10)],
    }
    apply(archives.write_stl10(tmp_path / 'stl10', **content))
    return tmp_path / 'stl10', content


def build(**cfg):
    return DATASETS.build({key: str(v) if key == 'data_root' else v for key, v in cfg.items()})


def images_of(dataset):
    return np.stack([dataset[index]['img'] for index in range(len(dataset))])


def check(dataset, images, labels, classes):
    """Images are given in the order of colours of the data set."""
    assert np.array_equal(images_of(dataset), images)
    assert dataset.get_gt_labels().tolist() == labels.tolist()
    assert dataset.get_gt_labels().dtype == np.int64
    assert dataset.metainfo['classes'] == tuple(classes)
    item = dataset[0]
    assert isinstance(item['gt_label'], int)
    assert item['img'].dtype == np.uint8


@pytest.mark.parametrize('split', ['train', 'test'])
def test_cifar10(split, tmp_path, rng, apply):
    cifar = pytest.importorskip('mmpretrain.datasets.cifar')
    sets = {'train': archives.random_set(rng, 23, 10), 'test': archives.random_set(rng, 11, 10)}
    apply(archives.write_cifar10(tmp_path, **sets))
    dataset = cifar.CIFAR10(str(tmp_path), split, download=False)
    check(dataset, *sets[split], archives.CIFAR10_CLASSES)  # mmpretrain has it in RGB order.
    dataset._metainfo.clear()
    dataset._load_meta()
    assert dataset.metainfo['classes'] == archives.CIFAR10_CLASSES


@pytest.mark.parametrize('split', ['train', 'test'])
def test_cifar100(split, tmp_path, rng, apply):
    cifar = pytest.importorskip('mmpretrain.datasets.cifar')
    sets = {'train': archives.random_set(rng, 120, 100), 'test': archives.random_set(rng, 100, 100)}
    classes = cifar.CIFAR100.METAINFO['classes']
    apply(archives.write_cifar100(tmp_path, **sets, classes=classes))
    check(cifar.CIFAR100(str(tmp_path), split, download=False), *sets[split], classes)


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('download', [True, False])
def test_svhn(split, download, svhn):
    folder, splits = svhn
    dataset = build(type='SVHN', data_root=folder, split=split, download=download)
    images, labels = splits[split]
    check(dataset, images[..., ::-1], labels, '0123456789')


def test_svhn_of_one_image(tmp_path, rng, apply):
    images, labels = archives.random_set(rng, 1, 10)
    apply(archives.write_svhn(tmp_path, extra=(images, labels)))
    check(
        build(type='SVHN', data_root=tmp_path, split='extra'),
        images[..., ::-1],
        labels,
        '0123456789',
    )


@pytest.mark.parametrize('split', ['train', 'test', 'unlabeled', 'train+unlabeled'])
def test_stl10(split, stl10):
    folder, content = stl10
    parts = {**content, 'unlabeled': (content['unlabelled'], np.full(7, -1))}
    images, labels = (
        np.concatenate(part)[..., ::-1] if part[0].ndim == 4 else np.concatenate(part)
        for part in zip(*(parts[name] for name in split.split('+')))
    )
    dataset = build(type='STL10', data_root=folder, split=split)
    check(dataset, images, labels, archives.STL10_CLASSES)
    assert torchvision.datasets.STL10(folder).classes == archives.STL10_CLASSES


@pytest.mark.parametrize('split', ['train', 'train+unlabeled'])
def test_fold_of_stl10_is_part_of_the_labelled_images(split, stl10):
    folder, content = stl10
    dataset = build(type='STL10', data_root=folder, split=split, fold=9, download=False)
    images, labels = (part[content['folds'][9]] for part in content['train'])
    assert np.array_equal(images_of(dataset)[:5], images[..., ::-1])
    assert dataset.get_gt_labels().tolist() == labels.tolist() + [-1] * (len(dataset) - 5)
    assert len(dataset) == (5 if split == 'train' else 12)


def test_images_are_views_and_not_copies_of_what_torchvision_has_read(stl10):
    dataset = build(type='STL10', data_root=stl10[0], split='unlabeled')
    assert not dataset._images.flags.owndata
    before = dataset[0]['img'].copy()
    dataset[0]['img'][:] = 0
    assert np.array_equal(dataset[0]['img'], before)


def test_names_are_ours_in_the_scope_of_mmpretrain(svhn, stl10):
    registry = pytest.importorskip('mmpretrain.registry').DATASETS
    names = ('SVHN', 'STL10', 'CSVDataset')
    # Of all that mmpretrain registers by then.
    pytest.importorskip('mmpretrain.datasets')
    assert not set(names) & set(registry.module_dict)
    init_default_scope('mmpretrain')
    for name, folder in (('SVHN', svhn[0]), ('STL10', stl10[0])):
        dataset = build(type=name, data_root=folder, pipeline=[dict(type='PackInputs')])
        assert type(dataset) is getattr(torchvision_images, name)
        assert dataset[0]['data_samples'].gt_label.tolist() == [0]


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(type='SVHN', split='val'), "split must be one of 'train', 'test'"),
        (dict(type='SVHN', download=1), 'download must be True or False, got 1'),
        (dict(type='STL10', split='unlabelled'), "Did you mean 'unlabeled'"),
        (
            dict(type='STL10', fold=10),
            r'STL10 cannot be read: .* folds should be in the range \[0, 10\), but got 10',
        ),
        (
            dict(type='STL10', fold=-1),
            r'STL10 cannot be read: .* folds should be in the range \[0, 10\), but got -1',
        ),
        (dict(type='STL10', fold=0, split='test'), "fold must be None with split='test', .*got 0"),
    ],
)
def test_wrong_option_is_refused(cfg, message):
    with pytest.raises(OptionError, match=message):
        build(**{'data_root': 'nowhere', **cfg})


@pytest.mark.parametrize('name', ['SVHN', 'STL10'])
def test_files_that_are_not_there_are_one_line(name, tmp_path):
    with pytest.raises(OptionError, match='cannot be read: Dataset not found') as error:
        build(type=name, data_root=tmp_path, download=False)
    assert repr(str(tmp_path)) in str(error.value)
    assert '\n' not in str(error.value)


def test_download_that_fails_is_one_line_and_other_ranks_do_not_wait(svhn, monkeypatch):
    waits = []
    monkeypatch.setattr(torchvision_images, 'barrier', lambda: waits.append(1))
    with pytest.raises(OptionError, match=r'svhn.*SVHN cannot be read: .*refused'):
        build(type='SVHN', data_root=svhn[0], split='extra')
    assert waits == [1]


def test_other_ranks_wait_and_do_not_download(svhn, monkeypatch):
    waits = []
    monkeypatch.setattr(torchvision_images, 'barrier', lambda: waits.append(1))
    monkeypatch.setattr(torchvision_images, 'is_main_process', lambda: False)
    with pytest.raises(OptionError, match='Dataset not found'):
        build(type='SVHN', data_root=svhn[0], split='extra')
    assert waits == [1]
    assert len(build(type='SVHN', data_root=svhn[0], split='test', download=False)) == 11
    assert waits == [1]


def test_changed_file_is_refused(svhn):
    path = svhn[0] / 'train_32x32.mat'
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OptionError, match='not found or corrupted'):
        build(type='SVHN', data_root=svhn[0], download=False)


def test_svhn_without_scipy_is_one_line(svhn, monkeypatch):
    monkeypatch.setitem(sys.modules, 'scipy.io', None)
    with pytest.raises(OptionError, match=r'SVHN cannot be read: .*scipy'):
        build(type='SVHN', data_root=svhn[0])


def test_folds_that_are_not_there_are_one_line(stl10):
    (stl10[0] / 'stl10_binary/fold_indices.txt').unlink()
    with pytest.raises(OptionError, match=r'fold_indices\.txt'):
        build(type='STL10', data_root=stl10[0], fold=1)
